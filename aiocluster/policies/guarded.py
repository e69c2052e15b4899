"""A policy of the user's, which may fail: then round robin chooses in its place."""

import logging
from collections.abc import Sequence

from aiocluster.policies.base import C, Policy
from aiocluster.policies.round_robin import RoundRobin

log = logging.getLogger("aiocluster.dispatcher")


class Guarded:
    """Chooses as `policy` does, if that chooses. Its other attributes are those of `policy`."""

    def __init__(self, policy: Policy) -> None:
        self.failures = 0
        self.by: str | None = getattr(policy, "by", None)
        self.is_binding = bool(getattr(policy, "is_binding", False))
        self._policy = policy
        self._instead = RoundRobin()

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return a candidate, whatever the policy does."""
        try:
            chosen = self._policy.choose(candidates, affinity)
        except Exception as error:
            self._count("raised", error)
        else:
            for candidate in candidates:
                if candidate is chosen:
                    return candidate
            self._count(f"chose {chosen!r:.80}, which is no candidate")
        return self._instead.choose(candidates, affinity)

    def _count(self, what: str, error: Exception | None = None) -> None:
        """Say so in the log; of many failures at each doubling, so that they do not fill it."""
        self.failures += 1
        if self.failures & (self.failures - 1):
            return
        log.error(
            "the policy %r %s: round robin chooses instead (%d failures so far)",
            self._policy,
            what,
            self.failures,
            exc_info=error,
        )
