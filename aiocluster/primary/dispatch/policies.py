"""The policies of one role: one for all of its addresses, or one for each."""

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
    """The policy of listeners from which workers accept by themselves.

    Connections that the primary accepts nevertheless go to each worker in turn.
    """


def policies(setting: Any) -> Callable[[str], Policy]:
    """Return a function from an address to its policy: one object for all that share a policy.

    `setting` is one policy for all, or a mapping from addresses to policies, where ":port" means
    all interfaces and missing addresses have round robin. ConfigError if a policy is impossible.
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
    """Return the addresses that have a policy but are not in `addresses`, the listening ones."""
    if not isinstance(setting, Mapping):
        return []
    return sorted(setting.keys() - {form for one in addresses for form in (one, _bare(one))})


def _bare(address: str) -> str:
    """Return ":port", as users write it, if the host of the address means all interfaces."""
    host, _, port = address.rpartition(":")
    return f":{port}" if host in ("0.0.0.0", "[::]") else address


def policy_of_server(setting: Any) -> Policy:
    """Return the policy of a server that workers opened: a new one, unless `setting` is an object.

    A mapping holds only for addresses of `bind`, and "shared" chooses no worker: then it is round
    robin.
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
