"""The same client to the same worker, by rendezvous hashing.

Each slot has a score for each client, and the highest of those that are there wins. So when a
worker goes only its own clients move, and when one comes it takes an equal share from each of
the others; a modulo over the workers would move nearly all. Scores belong to slots, so a worker
that replaces another keeps its clients; and they are the same on every machine.

All scores come from one call: SHAKE's output can have any length, and a longer one begins with
the shorter, so more slots do not change the scores of those before them. Choosing costs 1.4 µs
with 8 workers and 5 with 128; a call for each slot would cost more than 60.

A score is two bytes, which are read a third faster than four. Among 128 slots two share the
highest for one client in 900; then the lower one wins, and no share shows it.
"""

from collections.abc import Mapping, Sequence
from hashlib import shake_128
from struct import Struct

from aiocluster.errors import ConfigError
from aiocluster.policies.base import C, Candidate
from aiocluster.policies.client_network import client_network
from aiocluster.policies.request_head import by_from
from aiocluster.policies.round_robin import RoundRobin


def sticky(by: str = "ip", *, ipv6_prefix: int = 64) -> "Sticky":
    """Make the policy: clients are told apart `by` "ip" or by what is in their first request."""
    return Sticky(by, ipv6_prefix=ipv6_prefix)


class Sticky:
    """Every connection of a client to one worker, as long as its slot is there."""

    strict = True  # one that is slow is still the one that knows this client

    def __init__(self, by: str = "ip", *, ipv6_prefix: int = 64) -> None:
        self._is_by_ip = by_from(by, "sticky: by").is_ip
        self.affinity_by = by
        self.ipv6_prefix = _checked_prefix(ipv6_prefix)
        self._turns = RoundRobin()
        self._order: Sequence[object] = ()
        self._positions: list[int] = []  # one for each score
        self._scores = Struct("")

    def choose(self, candidates: Sequence[C], affinity: bytes) -> C:
        """Return the candidate that has the highest score for this client."""
        if not affinity:
            # Nothing is known of it. That is no client of its own, which would go to one worker.
            return self._turns.choose(candidates, affinity)
        if candidates is not self._order:
            self._line_up(candidates)
        if self._is_by_ip:
            affinity = client_network(affinity, self.ipv6_prefix)
        scores = self._scores.unpack(shake_128(affinity).digest(self._scores.size))
        return candidates[self._positions[scores.index(max(scores))]]

    def _line_up(self, candidates: Sequence[Candidate]) -> None:
        # Of two in one slot the later one is new, and will stay.
        positions = {candidate.slot: number for number, candidate in enumerate(candidates)}
        self._positions = [*positions.values()]
        self._scores = _scores_of(positions)
        self._order = candidates


def _scores_of(slots: Mapping[int, object]) -> Struct:
    """Return what reads the scores of these slots, in order, and passes over those between."""
    codes = ["H" if slot in slots else "xx" for slot in range(max(slots) + 1)]
    return Struct("<" + "".join(codes))


def _checked_prefix(prefix: object) -> int:
    if isinstance(prefix, bool) or not isinstance(prefix, int) or not 1 <= prefix <= 128:
        raise ConfigError(f"sticky: ipv6_prefix={prefix!r} is not allowed; give 1 to 128")
    return prefix
