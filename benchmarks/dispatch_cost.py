"""What does it cost the primary to give one connection to a worker, where limits must be kept?

Clients come one by one, as the dispatcher is told of them; its policy is round robin. Cases: no
limit; a limit of all together; limits of each, while one worker drains; and all full, by either
limit, while clients are turned away. With 8 workers, and with 128.

The workers are the primary's own outboxes on a scoreboard; only the kernel is left out: nothing is
sent, and nothing is closed. What counts is CPU time of this process. The cases take turns, and the
median of all turns counts.
"""

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from aiocluster.ipc.handoff import handoff_pair
from aiocluster.ipc.scoreboard import Scoreboard
from aiocluster.policies.round_robin import RoundRobin
from aiocluster.primary.dispatch.admission import AdmissionControl
from aiocluster.primary.dispatch.backend import Backend
from aiocluster.primary.dispatch.capacity import Limits
from aiocluster.primary.dispatch.dispatcher import Dispatcher
from aiocluster.primary.sockets.connection import Connection
from benchmarks import harness, plot, report

ROUNDS = 7
CLIENTS = 2_000
LIMITS = {8: 2.0, 128: 10.0}  # microseconds, by the number of workers
# What a worker has at first, and what it may have where there is enough room.
OPEN, MANY = 3, 1_000_000


@dataclass(frozen=True, slots=True)
class Case:
    """Limits, and what is so."""

    name: str
    max_connections: int | None = None
    total_of_each: int | None = None  # the limit of all together, by worker
    one_leaves: bool = False


CASES = (
    Case("no limit"),
    Case("a limit of all", total_of_each=MANY),
    Case("limits of each, one leaves", max_connections=MANY, one_leaves=True),
    Case("refused, each is full", max_connections=OPEN),
    Case("refused, all together are full", total_of_each=OPEN),
)


class UnsentOutbox(Backend):
    """Counts what it is given, and gives it to nobody."""

    def _give(self, batch: Sequence[Connection], now: float) -> bool:
        self.sent += len(batch)
        self.room.budget -= len(batch)
        return True


class Cluster:
    """A dispatcher, and those that it gives to."""

    def __init__(self, case: Case, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._members: list[UnsentOutbox] = []
        total = None if case.total_of_each is None else case.total_of_each * count
        self._dispatcher = Dispatcher(
            RoundRobin(),
            lambda: None,
            lambda: None,
            lambda refused: None,
            AdmissionControl(lambda: self._members, total),
        )
        self._scoreboard = Scoreboard()
        self._limits = Limits(0.05, MANY, case.max_connections)
        self._backends = [self._backend(slot) for slot in range(count)]
        self._members += self._backends
        for backend in self._backends:
            self._dispatcher.add(backend)
        if case.one_leaves:
            self._dispatcher.leave(self._members.pop(), self._loop.time())
        self._update()

    def _backend(self, slot: int) -> UnsentOutbox:
        board = (self._scoreboard, self._scoreboard.claim())
        backend = UnsentOutbox(
            slot, handoff_pair(), board, self._limits, self._update, lambda returned: None
        )
        backend.sent = OPEN
        backend.look_for_room()
        return backend

    def _update(self) -> None:
        self._dispatcher.update(self._loop.time())

    def microseconds(self) -> float:
        """The CPU time of one client, of a turn."""
        dispatch, monotonic = self._dispatcher.dispatch, time.monotonic
        began = time.process_time()
        for _ in range(CLIENTS):
            dispatch([Connection(-1, 0)], monotonic())
        return (time.process_time() - began) / CLIENTS * 1e6

    def close(self) -> None:
        """Let go of all."""
        for backend in self._backends:
            backend.close()
        self._scoreboard.close()


async def measure(count: int, rounds: int) -> dict[str, list[float]]:
    """By case: microseconds, one of each turn."""
    costs = defaultdict(list)
    for case in harness.alternated(CASES, rounds):
        cluster = Cluster(case, count)
        costs[case.name].append(cluster.microseconds())
        cluster.close()
        await asyncio.sleep(0)
    return dict(costs)


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    measured = {count: uvloop.run(measure(count, options.rounds)) for count in LIMITS}
    medians = {
        case.name: [statistics.median(measured[count][case.name]) for count in LIMITS]
        for case in CASES
    }
    figures = [
        report.at_most(f"{case.name}: with {count}", limit, median, " µs")
        for case in CASES
        for (count, limit), median in zip(LIMITS.items(), medians[case.name], strict=True)
    ]
    header = ("", *(f"{count} workers" for count in LIMITS))
    rows = [
        (case.name, *(report.spread(measured[count][case.name]) for count in LIMITS))
        for case in CASES
    ]
    report.print_table("CPU time of one client, µs: median (lowest to highest turn)", header, rows)
    report.print_figures(figures)
    report.write_json("dispatch_cost", {"microseconds": measured}, figures)
    groups = [f"{count} workers" for count in LIMITS]
    plot.bars("dispatch_cost", "CPU time of giving out a connection", "µs", groups, medians)
    return figures


if __name__ == "__main__":
    main()
