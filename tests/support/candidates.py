"""Workers as a policy sees them, made up."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiocluster.policies.base import Policy


@dataclass(slots=True, eq=False)
class Worker:
    """A candidate whose figures a test sets."""

    slot: int
    open_connections: int = 0
    queued: int = 0
    requests_in_flight: int = 0
    lag: float = 0.0
    worker_id: int = 0


def workers(*slots: int) -> list[Worker]:
    """Return idle ones in these slots."""
    return [Worker(slot, worker_id=slot + 1) for slot in slots]


def turns(
    policy: Policy, candidates: Sequence[Worker], number: int, affinity: bytes = b""
) -> list[int]:
    """Return the slots of the next `number` choices; each is counted as given, and stays open."""
    slots = []
    for _ in range(number):
        chosen = policy.choose(candidates, affinity)
        chosen.open_connections += 1
        slots.append(chosen.slot)
    return slots
