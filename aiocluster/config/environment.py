"""Environment variables that a caller gives to a worker."""

from collections.abc import Mapping

from aiocluster.errors import ConfigError

# Of all together; they travel in one packet.
MAX_ENV_BYTES = 64 * 1024


def checked_env(env: object) -> dict[str, str]:
    """Return a copy of `env`; ConfigError, naming what is wrong, when no process could have it."""
    if not isinstance(env, Mapping):
        raise ConfigError(f"env: {env!r:.80} is a {type(env).__name__}; give a dict of text")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(f"env: {name!r}: {value!r:.80} is not allowed; give text for both")
        if not name or "=" in name or "\0" in name + value:
            raise ConfigError(
                f"env: {name!r}: {value!r:.80} is not allowed; a name must not be empty nor have"
                " a '=', neither may have a zero byte"
            )
    size = sum(_size(name) + _size(value) for name, value in env.items())
    if size > MAX_ENV_BYTES:
        raise ConfigError(f"env: {size} bytes; at most {MAX_ENV_BYTES} bytes are possible")
    return dict(env)


def _size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ConfigError(f"env: {text!r:.80} cannot be encoded as UTF-8") from None
