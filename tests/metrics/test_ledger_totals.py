"""What holds for the totals of a snapshot over any life of a cluster."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from aiocluster.metrics.aggregator import Aggregator, WorkerFacts
from aiocluster.metrics.instruments import FIRST_BUCKET
from aiocluster.metrics.snapshot import Counters, Metrics, Report, Snapshot

START = 100.0


def worker(worker_id: int, *, slot: int = 0, restarts: int = 0) -> WorkerFacts:
    return WorkerFacts(
        worker_id=worker_id,
        slot=slot,
        role="web",
        generation=1,
        pid=4000 + worker_id,
        phase="ready",
        started_at=START,
        restarts=restarts,
        counters=Counters(),
    )


def total_restarts(aggregator: Aggregator, *workers: WorkerFacts) -> int:
    return aggregator.snapshot(workers, now=START, wall=0.0).total.restarts


@pytest.mark.parametrize(
    ("seen", "total"),
    [
        ([{0: 1}, {0: 3}], 3),
        ([{0: 2, 1: 1}, {1: 1}], 3),  # the slot went
        ([{0: 2}, {}, {0: 2}], 2),  # between two workers
        ([{0: 2}, {}, {0: 1}], 3),  # the slot went, and came back as a new one
    ],
)
def test_restarts_are_never_forgotten(seen: list[dict[int, int]], total: int) -> None:
    """The total of restarts outlives the slots they were in."""
    aggregator = Aggregator(START)
    told = [
        total_restarts(
            aggregator, *(worker(slot, slot=slot, restarts=n) for slot, n in each.items())
        )
        for each in seen
    ]

    assert told[-1] == total


def test_two_workers_in_one_slot_count_its_restarts_once() -> None:
    """During a reload the old and the new worker share a slot, and nothing was restarted."""
    aggregator = Aggregator(START)
    old, new = worker(1, restarts=2), worker(2, restarts=0)

    told = [total_restarts(aggregator, *each) for each in [(old,), (old, new), (new, old), (new,)]]

    assert told == [2, 2, 2, 2]


class Life:
    """A made-up cluster, with a snapshot after each thing that happens in it."""

    def __init__(self) -> None:
        self.now = START
        self.aggregator = Aggregator(START)
        self.alive: dict[int, WorkerFacts] = {}
        self.started = 0
        self.crashes = 0
        self.snapshots: list[Snapshot] = []

    def happen(self, what: str, slot: int, amount: int) -> None:
        self.now += 0.5
        facts = self.alive.get(slot)
        match what:
            case "start" if facts is None:
                self.start(slot, restarts=0)
            case "serve" if facts:
                self.alive[slot] = after_serving(facts, amount)
            case "report" if facts:
                report = Report(latency={FIRST_BUCKET: 1 + amount})
                self.aggregator.report(facts.worker_id, report, self.now)
            case "remove" if facts:
                self.aggregator.retire(facts.worker_id, self.alive.pop(slot).counters)
            case "crash" if facts:
                self.crashes += 1
                self.aggregator.retire(facts.worker_id, facts.counters)
                self.start(slot, facts.restarts + 1)
        self.look()

    def start(self, slot: int, restarts: int) -> None:
        self.started += 1
        self.alive[slot] = worker(self.started, slot=slot, restarts=restarts)

    def look(self) -> None:
        previous = self.snapshots[-1] if self.snapshots else None
        facts = self.alive.values()
        snapshot = self.aggregator.snapshot(facts, now=self.now, wall=0.0, previous=previous)
        self.snapshots.append(snapshot)


def after_serving(facts: WorkerFacts, served: int) -> WorkerFacts:
    """Return what a worker looks like when it has served some more, and is at the next."""
    counters = facts.counters
    done = counters.requests_done + served
    more = replace(
        counters,
        connections_open=served,
        connections_total=counters.connections_total + served,
        requests_begun=done + 1,
        requests_done=done,
        responses_2xx=counters.responses_2xx + served,
        responses_5xx=counters.responses_5xx + served // 3,
    )
    return replace(facts, counters=more)


def counted(total: Metrics) -> list[int]:
    return [
        total.connections_total,
        total.requests_total,
        total.restarts,
        *total.responses.values(),
        *total.errors.values(),
    ]


def lived(steps: list[tuple[str, int, int]]) -> Life:
    life = Life()
    life.look()
    for step in steps:
        life.happen(*step)
    return life


things = st.sampled_from(["start", "serve", "report", "remove", "crash"])
lives = st.lists(st.tuples(things, st.integers(0, 3), st.integers(0, 20)), max_size=40).map(lived)


@given(lives)
def test_totals_never_go_backwards(life: Life) -> None:
    """Whatever workers do and whenever they die, counters only grow."""
    for earlier, later in pairwise(snapshot.total for snapshot in life.snapshots):
        assert all(a <= b for a, b in zip(counted(earlier), counted(later), strict=True))


@given(lives)
def test_gauges_are_those_of_the_living(life: Life) -> None:
    """What is open or in flight in the total is so in a worker that is listed."""
    for snapshot in life.snapshots:
        each, total = snapshot.workers.values(), snapshot.total
        assert total.connections_open == sum(one.connections_open for one in each)
        assert total.requests_in_flight == sum(one.requests_in_flight for one in each)


@given(lives)
def test_rates_are_never_negative(life: Life) -> None:
    """A worker that died, or a slot that was given to another, makes no rate negative."""
    for snapshot in life.snapshots:
        assert snapshot.total.requests_per_second >= 0.0
        assert all(one.requests_per_second >= 0.0 for one in snapshot.workers.values())


@given(lives)
def test_each_restart_is_counted_once(life: Life) -> None:
    """However slots come and go, the total of restarts is the number of crashes."""
    assert life.snapshots[-1].total.restarts == life.crashes


def test_another_ledger_goes_on() -> None:
    """Nothing goes backwards: what the dead had done, restarts, the uptime."""
    first = Aggregator(START)
    first.report(1, Report(rss_bytes=5), START)
    first.snapshot([worker(1, restarts=3)], now=START, wall=0.0)
    first.retire(2, Counters(requests_begun=7, connections_total=4))
    second = Aggregator.of(first.state())
    before = first.snapshot([worker(1, restarts=3)], now=START + 5, wall=0.0)
    after = second.snapshot([worker(1, restarts=3)], now=START + 5, wall=0.0)

    assert replace(after.total, latency=before.total.latency) == before.total
    assert (after.total.requests_total, after.total.restarts, after.total.uptime) == (7, 3, 5.0)
    assert after.workers[1].rss_bytes == 5
