"""What tests of policies have in common: who got how many connections, and a policy or two."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from aiocluster import Cluster, Snapshot
from aiocluster.policies.base import C
from tests.support.cluster import (
    NEVER_BEHIND,
    url_of,
    who_answers,
)
from tests.support.program import PATIENCE

# However busy the machine, no worker is found to be blocked: only the policy chooses.
EXACT = {**NEVER_BEHIND, "hang_timeout": 0.0, "lag_warning": 0.0}


async def counted(cluster: Cluster, count: int, *, nth: int = 1) -> Counter[int]:
    """Let so many connections come, one after the other; return how many each slot got."""
    url = url_of(cluster, "", nth=nth)
    return Counter([(await who_answers(url))["slot"] for _ in range(count)])


async def snapshot_where(cluster: Cluster, holds: Callable[[Snapshot], bool]) -> Snapshot:
    """Return the first snapshot for which `holds` is true."""
    async with asyncio.timeout(PATIENCE):
        async for snapshot in cluster.subscribe(0.05):
            if holds(snapshot):
                return snapshot
    raise AssertionError


class HighestSlot:
    """What a user may write."""

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        return candidates[-1]


class Failing:
    """Raises, or answers with something that is no candidate."""

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def choose(self, candidates: Sequence[Any], affinity: bytes) -> Any:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer
