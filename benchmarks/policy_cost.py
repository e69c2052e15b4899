"""What does it cost to choose the worker for one connection?

Sides: each policy, with 8 and with 128 candidates; sticky by a client's IPv4 address, by its IPv6
address, and by a session id. It is asked as the dispatcher asks: with the same sequence each time,
with another client each time, and whoever was chosen has one connection more, while somewhere else
one is closed.

The candidates are like the primary's (aiocluster/primary/dispatch/backend.py): a figure is a
property that takes a number of the primary's own and one in shared memory. Reading them is most
of what policies that look at figures cost, and why least_connections does not read all of them
each time.
least_loaded is measured at its dearest: all are alike, so it has to look at the connections, too.

What counts is CPU time of this process, less that of the same loop with nothing to choose. The
policies take turns, and the median of all turns counts. One more row says what it costs to begin
with another sequence of candidates, as after a worker has come or gone.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from aiocluster.policies.base import Policy
from aiocluster.policies.named import policy_from
from benchmarks import harness, plot, report

ROUNDS = 15
CHOICES = 20_000
CHANGES = 1_000
LIMITS = {8: 2.0, 128: 10.0}  # microseconds, by the number of workers
CLIENTS = 4096
# The scoreboard's.
ROW_FIELDS = 16
TAKEN, CLOSED, BEGUN, DONE = range(4)


@dataclass(frozen=True, slots=True)
class Case:
    """A policy, and how many bytes it is told of each client."""

    name: str
    policy: str
    affinity_bytes: int = 0


CASES = (
    Case("round_robin", "round_robin"),
    Case("weighted", "weighted:5,3,2,2"),
    Case("least_connections", "least_connections"),
    Case("least_loaded", "least_loaded"),
    Case("sticky, IPv4", "sticky:ip", 4),
    Case("sticky, IPv6", "sticky:ip", 16),
    Case("sticky, session", "sticky:cookie:sid", 32),
)
# By case: microseconds, one of each turn.
Costs = dict[str, list[float]]


class Worker:
    """One as the primary knows it."""

    lag = 0.0

    def __init__(self, slot: int, fields: "memoryview[int]") -> None:
        self.slot = slot
        self.worker_id = slot + 1
        self.sent = 0
        self._fields = fields
        self._taken, self._closed, self._begun, self._done = (
            slot * ROW_FIELDS + field for field in (TAKEN, CLOSED, BEGUN, DONE)
        )

    @property
    def open_connections(self) -> int:
        return self.sent - self._fields[self._closed]

    @property
    def queued(self) -> int:
        return self.sent - self._fields[self._taken]

    @property
    def requests_in_flight(self) -> int:
        return self._fields[self._begun] - self._fields[self._done]


class Cluster:
    """Workers, the clients that come to them, and whose connection is closed meanwhile."""

    def __init__(self, count: int, affinity_bytes: int) -> None:
        random = Random(count)
        self.fields = memoryview(bytearray(count * ROW_FIELDS * 8)).cast("Q")
        self.workers = [Worker(slot, self.fields) for slot in range(count)]
        clients = [random.randbytes(affinity_bytes) for _ in range(CLIENTS)]
        self.turn = [
            (random.choice(clients), random.randrange(count) * ROW_FIELDS + CLOSED)
            for _ in range(CHOICES)
        ]

    def seconds(self, policy: Policy | None) -> float:
        """The CPU time of a turn: clients come one by one, and are taken at once."""
        choose = policy.choose if policy else None
        workers, fields = self.workers, self.fields
        began = time.process_time()
        for affinity, closed in self.turn:
            chosen = choose(workers, affinity) if choose else workers[0]
            chosen.sent += 1
            fields[chosen.slot * ROW_FIELDS + TAKEN] += 1
            fields[closed] += 1
        return time.process_time() - began

    def seconds_of_changes(self, policy: Policy) -> float:
        """The CPU time of one choice each among CHANGES sequences, no two alike."""
        sequences = [[*self.workers] for _ in range(CHANGES)]
        affinity = self.turn[0][0]
        began = time.process_time()
        for workers in sequences:
            policy.choose(workers, affinity)
        return time.process_time() - began


def measure(count: int, rounds: int) -> tuple[Costs, Costs]:
    """A choice's cost, and that of one among candidates never seen before."""
    choices, changes = defaultdict(list), defaultdict(list)
    clusters = {case: Cluster(count, case.affinity_bytes) for case in CASES}
    for case in harness.alternated(CASES, rounds):
        cluster, policy = clusters[case], policy_from(case.policy)
        spent = cluster.seconds(policy) - cluster.seconds(None)
        choices[case.name].append(spent / CHOICES * 1e6)
        changes[case.name].append(cluster.seconds_of_changes(policy) / CHANGES * 1e6)
    return choices, changes


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    measured = {count: measure(count, options.rounds) for count in LIMITS}
    figures = [
        report.at_most(
            f"{case.name}: choosing among {count}",
            limit,
            statistics.median(measured[count][0][case.name]),
            " µs",
        )
        for case in CASES
        for count, limit in LIMITS.items()
    ]
    _show(measured, figures)
    return figures


def _show(measured: dict[int, tuple[Costs, Costs]], figures: Sequence[report.Figure]) -> None:
    kinds = ("a choice", "the first after a change")
    columns = [(kind, count) for kind in (0, 1) for count in LIMITS]
    header = ("", *(f"{kinds[kind]}, {count}" for kind, count in columns))
    rows = [
        (case.name, *(report.spread(measured[count][kind][case.name]) for kind, count in columns))
        for case in CASES
    ]
    title = "CPU time of choosing among 8 and 128, µs: median (lowest to highest turn)"
    report.print_table(title, header, rows)
    report.print_figures(figures)
    report.write_json("policy_cost", {"microseconds": measured}, figures)
    medians = {
        case.name: [statistics.median(measured[count][0][case.name]) for count in LIMITS]
        for case in CASES
    }
    groups = [f"{count} workers" for count in LIMITS]
    plot.bars("policy_cost", "CPU time of choosing a worker", "µs", groups, medians)


if __name__ == "__main__":
    main()
