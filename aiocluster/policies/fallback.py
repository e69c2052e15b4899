"""The fallback policy: round robin chooses when the user's policy fails."""

import logging
from collections.abc import Sequence
from typing import Any

from aiocluster.policies.base import C, Candidate, Policy
from aiocluster.policies.round_robin import RoundRobin

log = logging.getLogger("aiocluster.dispatcher")


class FallbackPolicy:
    """A wrapper that chooses as `policy` does, or by round robin when `policy` fails."""

    def __init__(self, policy: Policy) -> None:
        self.failures = 0
        self.affinity_by: str | None = getattr(policy, "affinity_by", None)
        self.strict = bool(getattr(policy, "strict", False))
        self.may_rebalance = bool(getattr(policy, "may_rebalance", False))
        self._policy = policy
        self._instead = RoundRobin()
        # A tuple, so that the policy cannot change the candidates that others use.
        self._candidates: Sequence[Candidate] = []
        self._shown: tuple[Any, ...] = ()

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return a candidate, whatever the policy does."""
        try:
            chosen = self._policy.choose(self._as_tuple(candidates), affinity)
        except KeyboardInterrupt:  # a Ctrl-C at this moment, not a failure of the policy
            raise
        except BaseException as error:
            # No task is cancelled here, and one client's connection is no reason to exit.
            if self._is_to_be_told():
                self._tell("raised", error)
        else:
            for candidate in candidates:
                if candidate is chosen:
                    return candidate
            if self._is_to_be_told():
                self._tell(f"chose {_shown(chosen)}, which is no candidate")
        return self._instead.choose(candidates, affinity)

    def _as_tuple(self, candidates: Sequence[C]) -> tuple[C, ...]:
        """Return the candidates as a tuple, the same object until they change."""
        if candidates is not self._candidates:
            self._candidates, self._shown = candidates, tuple(candidates)
        return self._shown

    def _is_to_be_told(self) -> bool:
        """Count a failure; return True at each doubling, so that failures do not fill the log."""
        self.failures += 1
        return not self.failures & (self.failures - 1)

    def _tell(self, what: str, error: BaseException | None = None) -> None:
        log.error(
            "the policy %s %s: round robin chooses instead (%d failures so far)",
            _shown(self._policy),
            what,
            self.failures,
            exc_info=error,
        )


def _shown(value: object) -> str:
    """Return the beginning of the value's repr, which is the user's code and may fail too."""
    try:
        return f"{value!r:.80}"
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"a {type(value).__name__} without a repr"
