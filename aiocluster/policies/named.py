"""The policy that a user's setting means. These values are allowed:

"round_robin", "weighted:3,1", "sticky:cookie:sid"   a name, with its arguments
"pkg.module:name"                                    an import string of one of the next two
an object with a method `choose`                     used as it is
a class of such objects                              called without arguments
"""

import re
from collections.abc import Callable
from difflib import get_close_matches
from inspect import getattr_static, iscoroutinefunction, isfunction, signature
from typing import Any

from aiocluster.errors import ConfigError
from aiocluster.policies.base import Policy
from aiocluster.policies.least_connections import LeastConnections
from aiocluster.policies.least_loaded import LeastLoaded
from aiocluster.policies.request_head import by_from
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.policies.sticky import Sticky
from aiocluster.policies.weighted import Weighted

_PLAIN: dict[str, Callable[[], Policy]] = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "least_loaded": LeastLoaded,
    "weighted": Weighted,
    "sticky": Sticky,
}

ALLOWED_POLICY = (
    "round_robin, least_connections, least_loaded, weighted (or weighted:3,1, by slot), "
    "sticky (or sticky:ip, sticky:header:NAME, sticky:cookie:NAME, sticky:path:N), shared, "
    "an object with a method choose(candidates, affinity), a class of such objects, "
    "or 'pkg.module:name' of one"
)

# Attributes of a policy that had another name before. Under the old name an attribute would have
# no effect, and clients would lose their worker without an error (docs/changes.md).
RENAMED = {"is_binding": "strict", "evens_out": "may_rebalance", "by": "affinity_by"}

_WEIGHTS = re.compile(r"[0-9]{1,4}(,[0-9]{1,4})*")


def policy_from(value: object, import_target: Callable[[str, str], object] | None = None) -> Policy:
    """Return the policy that `value` means: a new one each time, unless `value` is an object.

    `import_target(text, what)` imports import strings. "shared" is refused: with shared accept,
    no policy chooses.
    """
    if not isinstance(value, str):
        return _from_object(value)
    name, colon, rest = value.partition(":")
    if name in _PLAIN:
        return _with(name, rest) if colon else _PLAIN[name]()
    if not colon or import_target is None:
        raise _not_allowed(value)
    try:
        return _from_object(import_target(value, "policy"))
    except ConfigError as error:
        raise ConfigError(f"{error}{_hint(value)}") from None


def is_import_string(text: str) -> bool:
    """Return True if `text` may be the import string of a user's policy."""
    name, colon, _ = text.partition(":")
    return bool(colon) and name not in _PLAIN


def _with(name: str, rest: str) -> Policy:
    if name == "sticky":
        return Sticky(rest)
    if name == "weighted" and _WEIGHTS.fullmatch(rest):
        return Weighted(dict(enumerate(map(int, rest.split(",")))))
    raise _not_allowed(f"{name}:{rest}")


def check_policy(value: Any) -> None:
    """Raise ConfigError if `value`, an object or a class, cannot be a policy.

    A class is not called for this check: calling it may open what its policy needs.
    """
    if not callable(getattr(value, "choose", None)):
        raise _not_allowed(value)
    if isinstance(value, type) and not _takes(value, 0):
        raise ConfigError(f"policy: {value!r} needs arguments; give an object of it")
    # A method that is read from its class takes its object as one more argument.
    is_unbound = isinstance(value, type) and isfunction(getattr_static(value, "choose"))
    if not _takes(value.choose, 2 + is_unbound) or iscoroutinefunction(value.choose):
        raise ConfigError(
            f"policy: {value!r} cannot choose; "
            "give one with `def choose(self, candidates, affinity)`, not async"
        )
    for old, new in RENAMED.items():
        if _has_old_attribute(value, old) and not hasattr(value, new):
            raise ConfigError(f"policy: {value!r:.80}: its attribute {old!r} is {new!r} now")
    by = getattr(value, "affinity_by", None)
    # An attribute that a class computes for its objects is checked on the object.
    if by is not None and not (isinstance(value, type) and hasattr(by, "__get__")):
        by_from(by, f"policy: {value!r:.80}: affinity_by")


def _has_old_attribute(policy: Any, name: str) -> bool:
    """Return True if `policy` has it; `by`, a word for much, only if it is an affinity key."""
    if name != "by":
        return hasattr(policy, name)
    try:
        by_from(getattr(policy, name, None))
    except ConfigError:
        return False
    return True


def _from_object(value: Any) -> Policy:
    check_policy(value)
    if isinstance(value, type):
        value = value()
        check_policy(value)  # the object may have a `choose` of its own
    policy: Policy = value
    return policy


def _takes(function: Callable[..., object], count: int) -> bool:
    try:
        signature(function).bind(*[None] * count)
    except TypeError:
        return False
    except ValueError:  # some functions written in C have no signature
        return True
    return True


def _not_allowed(value: object) -> ConfigError:
    hint = _hint(value) or f"; give {ALLOWED_POLICY}"
    return ConfigError(f"policy: {value!r} is not allowed{hint}")


def _hint(value: object) -> str:
    name = value.partition(":")[0] if isinstance(value, str) else ""
    near = [match for match in get_close_matches(name, [*_PLAIN, "shared"], n=1) if match != name]
    return f"; did you mean {near[0]!r}?" if near else ""
