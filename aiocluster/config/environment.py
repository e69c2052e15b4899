"""The environment variables that the settings give to workers."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from aiocluster.errors import ConfigError

ALLOWED_ENV = (
    "NAME=value for all workers, SLOT:NAME=value for those in one slot; "
    "from Python {'NAME': 'value', SLOT: {'NAME': 'value'}}"
)

# The size of all variables of one worker, which travel in one packet.
MAX_ENV_BYTES = 64 * 1024


class Environment(Struct, frozen=True):
    """The environment variables of a role's workers."""

    of_all: dict[str, str] = {}
    of_slot: dict[int, dict[str, str]] = {}

    def of(self, slot: int, more: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the worker in `slot`, with `more` variables.

        Raise ConfigError if the environment is too large.
        """
        env = {**self.of_all, **self.of_slot.get(slot, {}), **more}
        _check_size(env, f"env of slot {slot}")
        return env


def env_from(value: object) -> Environment:
    """Return the Environment of `env`: names and values, and dicts of them by slot number.

    Raise ConfigError, which names the fault, if no process could have such an environment.
    """
    if isinstance(value, Environment):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"env: {value!r:.80} is not allowed; give {ALLOWED_ENV}")
    of_slot = {slot: checked_env(env) for slot, env in value.items() if _is_slot(slot)}
    of_all = {name: text for name, text in value.items() if not _is_slot(name)}
    return _checked(Environment(checked_env(of_all), of_slot))


def env_from_texts(texts: Sequence[str]) -> Environment:
    """Return the Environment of typed texts: NAME=value, or SLOT:NAME=value."""
    of_all: dict[str, str] = {}
    of_slot: dict[int, dict[str, str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        slot, colon, rest = name.rpartition(":")
        if not equals or (colon and not (slot.isascii() and slot.isdigit() and len(slot) <= 4)):
            raise ConfigError(f"env: {text!r:.80} is not allowed; give {ALLOWED_ENV}")
        of_one = of_slot.setdefault(int(slot), {}) if colon else of_all
        of_one[rest] = value
    return _checked(
        Environment(checked_env(of_all), {slot: checked_env(env) for slot, env in of_slot.items()})
    )


def _checked(env: Environment) -> Environment:
    for slot in env.of_slot:
        env.of(slot, {})
    return env


def _is_slot(key: object) -> bool:
    return isinstance(key, int) and not isinstance(key, bool) and key >= 0


def checked_env(env: object) -> dict[str, str]:
    """Return a copy of `env`; raise ConfigError, which names the fault, if it is invalid."""
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
    _check_size(env, "env")
    return dict(env)


def _check_size(env: Mapping[str, str], what: str) -> None:
    size = sum(_size(name) + _size(value) for name, value in env.items())
    if size > MAX_ENV_BYTES:
        raise ConfigError(f"{what}: {size} bytes; at most {MAX_ENV_BYTES} bytes are possible")


def _size(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ConfigError(f"env: {text!r:.80} cannot be encoded as UTF-8") from None
