"""The special settings, which are more than a number or a name, with what each allows."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from aiocluster.config.addresses import ALLOWED_BIND, addresses_from
from aiocluster.config.autoscale import Autoscale
from aiocluster.config.environment import ALLOWED_ENV, env_from, env_from_texts
from aiocluster.config.target import check_target
from aiocluster.errors import ConfigError
from aiocluster.policies.named import ALLOWED_POLICY, check_policy, is_import_string, policy_from

# The policy `shared`: workers accept by themselves, and no policy chooses.
SHARED = "shared"

ALLOWED_NETWORKS = "addresses or networks, such as 10.0.0.0/8 or ::1"
ALLOWED_FOLDER = "the path of a folder"
ALLOWED_AUTOSCALE = "an Autoscale, or min=1,max=8 with more of its fields"


@dataclass(frozen=True, slots=True)
class Special:
    """A special setting: how its values are read, and what is allowed."""

    read: Callable[[Any], Any]  # reads a value that a program gave
    read_texts: Callable[[Sequence[str]], Any]  # reads typed texts, one or several
    allowed: str
    is_multiple: bool = False


def policy_value(value: Any) -> Any:
    """Check and return `policy`: one policy, or a mapping of addresses to policies."""
    if isinstance(value, Mapping):
        if not value:
            raise ConfigError(f"policy: {value!r} is not allowed; give {ALLOWED_POLICY}")
        return _by_address(value.items())
    return _policy(value)


def _by_address(pairs: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for where, policy in pairs:
        address = _address(where)
        if address in found:
            raise ConfigError(f"policy: {where!r}: {address} has a policy already")
        found[address] = _policy(policy)
    return found


def _address(where: Any) -> str:
    """Return an address in the form that `bind` has."""
    try:
        if isinstance(where, str):
            return str(addresses_from(where)[0])
    except ConfigError:
        pass
    raise ConfigError(f"policy: {where!r} is not an address of bind; give host:port")


def _policy(value: Any) -> Any:
    if not isinstance(value, str):
        check_policy(value)  # a class is called later, by the code that needs the policy
    elif is_import_string(value):
        check_target(value, "policy")  # imported later, by the code that needs the policy
    elif value != SHARED:
        policy_from(value)
    return value


def _policy_from_texts(texts: Sequence[str]) -> Any:
    if len(texts) == 1 and "=" not in texts[0]:
        return policy_value(texts[0])
    if alone := [text for text in texts if "=" not in text]:
        raise ConfigError(f"policy: {alone[0]!r}: of several, give each as host:port=policy")
    return _by_address((where, name) for where, _, name in (text.rpartition("=") for text in texts))


def _autoscale(value: Any) -> Autoscale | None:
    if value is None or isinstance(value, Autoscale):
        return value
    raise ConfigError(f"autoscale: {value!r:.80} is not allowed; give {ALLOWED_AUTOSCALE}")


def _autoscale_from_texts(texts: Sequence[str]) -> Autoscale:
    fields: dict[str, Any] = {}
    for pair in texts[0].split(","):
        name, equals, text = pair.partition("=")
        if not equals or name not in _FIELDS:
            raise ConfigError(f"autoscale: {pair!r} is not allowed; give {ALLOWED_AUTOSCALE}")
        if name in fields:
            raise ConfigError(f"autoscale: {pair!r}: {name} was given before")
        try:
            fields[name] = _FIELDS[name](text)
        except ValueError:
            raise ConfigError(f"autoscale: {pair!r}: {text!r} is no number") from None
    if not fields.keys() >= {"min", "max"}:
        raise ConfigError(f"autoscale: {texts[0]!r} is not allowed; give {ALLOWED_AUTOSCALE}")
    return Autoscale(**fields)


_FIELDS: dict[str, Callable[[str], Any]] = {
    "min": int,
    "max": int,
    "metric": str,
    "target": float,
    "up_after": float,
    "down_after": float,
    "cooldown": float,
}


def _networks(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple):
        raise _no_network(value)
    return tuple(map(_network, texts))


def _network(text: Any) -> str:
    try:
        return str(ip_network(text if isinstance(text, str) else ""))
    except ValueError:
        raise _no_network(text) from None


def _no_network(value: Any) -> ConfigError:
    return ConfigError(f"trusted_proxies: {value!r:.80} is not allowed; give {ALLOWED_NETWORKS}")


def _folder(value: Any) -> str | None:
    path = value.__fspath__() if hasattr(value, "__fspath__") else value
    if path is None or (isinstance(path, str) and path and "\0" not in path):
        return path
    raise ConfigError(f"chdir: {value!r:.80} is not allowed; give {ALLOWED_FOLDER}")


SPECIAL: dict[str, Special] = {
    "chdir": Special(_folder, lambda texts: _folder(texts[0]), ALLOWED_FOLDER),
    "bind": Special(addresses_from, addresses_from, ALLOWED_BIND, is_multiple=True),
    "policy": Special(policy_value, _policy_from_texts, ALLOWED_POLICY, is_multiple=True),
    "env": Special(env_from, env_from_texts, ALLOWED_ENV, is_multiple=True),
    "trusted_proxies": Special(_networks, _networks, ALLOWED_NETWORKS, is_multiple=True),
    "autoscale": Special(_autoscale, _autoscale_from_texts, ALLOWED_AUTOSCALE),
}
