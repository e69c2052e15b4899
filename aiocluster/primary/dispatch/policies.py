"""The policies of one role: which one holds for which of its addresses."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiocluster.config.special import SHARED
from aiocluster.config.target import import_target
from aiocluster.policies.base import Policy
from aiocluster.policies.fallback import FallbackPolicy
from aiocluster.policies.named import policy_from
from aiocluster.policies.round_robin import RoundRobin

_OURS = "aiocluster.policies."


class SharedPolicy(RoundRobin):
    """Workers accept by themselves; what still comes by the primary goes to each in turn."""


def policies(setting: Any) -> Callable[[str], Policy]:
    """Return what tells the policy of an address: one object for all that share it.

    `setting` is one policy for all, or a mapping of addresses to one each, ":port" for all
    interfaces; others have round robin. ConfigError when a policy cannot be made.
    """
    if not isinstance(setting, Mapping):
        for_all = _made(setting)
        return lambda address: for_all
    default = RoundRobin()
    distinct = {_key(value): value for value in setting.values()}
    made = {key: _made(value) for key, value in distinct.items()}
    by_address = {address: made[_key(value)] for address, value in setting.items()}
    return lambda address: by_address.get(address, by_address.get(_bare(address), default))


def unserved(setting: Any, addresses: Iterable[str]) -> list[str]:
    """Return the addresses that have a policy and are none of `addresses`, where we listen."""
    if not isinstance(setting, Mapping):
        return []
    return sorted(setting.keys() - {form for one in addresses for form in (one, _bare(one))})


def _bare(address: str) -> str:
    """Return ":port", as a user writes it, of a socket that listens on all interfaces."""
    host, _, port = address.rpartition(":")
    return f":{port}" if host in ("0.0.0.0", "[::]") else address


def policy_of_server(setting: Any) -> Policy:
    """Return the policy of a server of the workers' own: a new one, unless `setting` is an object.

    Only addresses of `bind` can be given one each, and in "shared" nobody chooses.
    """
    if isinstance(setting, Mapping) or setting == SHARED:
        return RoundRobin()
    return _made(setting)


def _key(value: Any) -> str | int:
    return value if isinstance(value, str) else id(value)


def _made(value: Any) -> Policy:
    if value == SHARED:
        return SharedPolicy()
    policy = policy_from(value, import_target)
    return policy if type(policy).__module__.startswith(_OURS) else FallbackPolicy(policy)
