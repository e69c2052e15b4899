"""How many workers a role should have, with made-up times and loads."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiocluster.config.autoscale import Autoscale
from aiocluster.errors import ConfigError
from aiocluster.metrics.snapshot import Snapshot
from aiocluster.primary.scaling.autoscale_policy import AutoscalePolicy, Decision
from aiocluster.primary.workers.phases import Phase
from tests.support.snapshots import booting, snapshot_of, worker


def busy(low: int = 1, high: int = 8, **values: Any) -> Autoscale:
    """Workers shall have 10 requests each."""
    ours: dict[str, Any] = {"metric": "in_flight", "target": 10.0}
    ours |= {"up_after": 10.0, "down_after": 60.0, "cooldown": 30.0}
    return Autoscale(low, high, **(ours | values))


def scaler_of(config: Autoscale, settle: float = 0.0) -> AutoscalePolicy:
    return AutoscalePolicy(config, "web", settle=settle)


def at(value: float, workers: int = 1, **figures: Any) -> Snapshot:
    """Each of so many workers has `value` requests in flight."""
    return snapshot_of(worker(n, requests_in_flight=value, **figures) for n in range(workers))


class Role:
    """Workers that share a load, looked at once a second, and as many as was decided."""

    def __init__(self, config: Autoscale, count: int = 1, boot: float = 0.0) -> None:
        self.now = 1000.0
        self.decisions: list[tuple[float, Decision]] = []  # with the seconds from the start
        self.scaler = scaler_of(config)
        self.ready_at = [self.now] * count
        self._boot = boot

    @property
    def count(self) -> int:
        return len(self.ready_at)

    @property
    def counts(self) -> list[int]:
        return [decision.count for _, decision in self.decisions]

    def run(self, loads: Iterable[float]) -> None:
        """A second each, with so many requests in flight in all."""
        for load in loads:
            self._look(load)
            self.now += 1.0

    def _look(self, load: float) -> None:
        ready = [n for n, at in enumerate(self.ready_at) if at <= self.now]
        snapshot = snapshot_of(
            worker(n, requests_in_flight=load / len(ready)) if n in ready else booting(n)
            for n in range(self.count)
        )
        decision = self.scaler.decide(self.now, snapshot, count=self.count, ready=len(ready))
        if decision is not None:
            self.decisions.append((self.now - 1000.0, decision))
            new = decision.count - self.count
            self.ready_at = self.ready_at[: decision.count] + [self.now + self._boot] * new


def test_more_load_for_long_enough_means_more_workers() -> None:
    """As many as the load needs, and why is told in figures."""
    role = Role(busy(), count=2)
    role.run([15.0] * 20 + [28.0] * 11)

    assert role.decisions == [(30.0, Decision(3, "in_flight 14 over 10 for 10 s: 2 -> 3 workers"))]


@pytest.mark.parametrize(
    ("metric", "figures", "reason"),
    [
        ("cpu", {"cpu_percent": 93.0}, "cpu 93 % over 70 % for 10 s: 2 -> 3 workers"),
        ("lag", {"loop_lag_mean": 0.03}, "lag 0.03 s over 0.025 s for 10 s: 2 -> 3 workers"),
        ("cpu", {"cpu_percent": 12.5}, "cpu 12.5 % at most, under 70 % for 60 s: 2 -> 1 worker"),
    ],
)
def test_the_reason_has_the_metrics_unit(
    metric: Any, figures: dict[str, float], reason: str
) -> None:
    """So that a log line needs no manual."""
    scaler = scaler_of(Autoscale(1, 8, metric=metric, up_after=10.0))
    snapshot = snapshot_of(worker(n, **figures) for n in range(2))
    decisions = [scaler.decide(now, snapshot, count=2, ready=2) for now in (0.0, 10.0, 60.0)]

    assert reason in [decision.reason for decision in decisions if decision]


def test_the_users_own_metric_is_called_by_its_name() -> None:
    """It is asked about the role's workers only."""
    seen: list[list[int]] = []

    def queue_length(snapshot: Snapshot) -> float:
        seen.append(list(snapshot.workers))
        return 25.0

    scaler = scaler_of(Autoscale(1, 8, metric=queue_length, target=10.0, up_after=0.0))
    snapshot = snapshot_of([worker(1), worker(2, role="jobs"), worker(3), booting(4)])

    assert scaler.decide(0.0, snapshot, count=2, ready=2) == Decision(
        4, "queue_length 25 over 10 for 0 s: 2 -> 4 workers"
    )
    assert seen == [[1, 3]]


def test_a_spike_does_nothing() -> None:
    """However high, if it is shorter than `up_after`, and however often it comes."""
    role = Role(busy(), count=2)
    role.run(([10.0] + [1e9] * 10) * 20)

    assert role.decisions == []


def test_a_step_up_is_followed_by_doubling() -> None:
    """Once a cooldown, until there are enough and not more."""
    role = Role(busy(high=100))
    role.run([205.0] * 600)

    assert [(at, decision.count) for at, decision in role.decisions] == [
        (10.0, 2),
        (40.0, 4),
        (70.0, 8),
        (100.0, 16),
        (130.0, 21),
    ]


def test_a_step_down_is_followed_by_halving() -> None:
    """Only after the long while that going down takes, each time."""
    role = Role(busy(high=100), count=16)
    role.run([4.0] * 600)

    assert [(at, decision.count) for at, decision in role.decisions] == [
        (60.0, 8),
        (121.0, 4),
        (182.0, 2),
        (243.0, 1),
    ]


def test_by_the_lag_they_go_one_by_one() -> None:
    """A loop that is not late does not say how many could go."""
    scaler = scaler_of(Autoscale(1, 8, metric="lag", down_after=5.0, cooldown=0.0))
    count, counts = 4, []
    for now in range(40):
        snapshot = snapshot_of(worker(n, loop_lag_mean=0.0001) for n in range(count))
        decision = scaler.decide(float(now), snapshot, count=count, ready=count)
        if decision:
            count = decision.count
            counts.append(count)

    assert counts == [3, 2, 1]


def test_as_many_go_as_the_highest_load_of_all_that_time_allows() -> None:
    """One bad second in a good minute is what they must be able to carry."""
    role = Role(busy(), count=8)
    role.run([20.0] * 30 + [39.0] + [20.0] * 30)

    assert role.counts == [5]


@pytest.mark.parametrize("half", [1, 5, 9, 15, 40, 200])
def test_a_load_that_moves_about_the_target_does_not_flap(half: int) -> None:
    """At most the workers go up once, and stay."""
    role = Role(busy(), count=4)
    sawtooth = [45.0] * half + [35.0] * half
    role.run(sawtooth * (4000 // half))

    assert role.counts in ([], [5])


def test_what_goes_up_for_a_load_does_not_come_down_for_it() -> None:
    """Whatever the load and the number: after each step it rests."""
    for load in range(1, 500):
        role = Role(busy(high=100, up_after=0.0, down_after=0.0, cooldown=0.0), count=10)
        role.run([float(load)] * 30)
        counts = [10, *role.counts]

        assert counts in (sorted(counts), sorted(counts, reverse=True))
        assert load <= 10 * role.count


def test_at_the_target_nothing_happens() -> None:
    """It is reached, not exceeded; rounding is no load."""
    for workers in range(1, 60):
        scaler = scaler_of(busy(high=99, target=0.1, up_after=0.0))
        assert scaler.decide(0.0, at(0.1, workers), count=workers, ready=workers) is None

        more = scaler.decide(1.0, at(0.2, workers), count=workers, ready=workers)
        assert more is not None
        assert more.count == min(2 * workers, 99)


def test_slow_boots_do_not_run_away() -> None:
    """While those ordered are on their way the others suffer, which orders no more."""
    role = Role(busy(high=100), boot=200.0)
    role.run([20.0] * 11)
    assert role.counts == [2]

    # The longer it takes, the more requests pile up; and then they are worked off.
    role.run(20.0 + 10 * second for second in range(200))
    role.run(max(2020.0 - 500 * second, 18.0) for second in range(400))

    assert role.counts == [2]


def test_what_boots_is_no_load_that_is_missing() -> None:
    """Zeroes of those that have just begun do not make the old ones go."""
    scaler = scaler_of(busy(up_after=0.0, down_after=0.0, cooldown=0.0))
    starting = [booting(n, phase) for n, phase in enumerate((Phase.STARTING, Phase.ONLINE))]
    unreported = [worker(n, rss_bytes=0) for n in (2, 3)]
    served = [worker(n, requests_in_flight=9) for n in (4, 5)]
    snapshot = snapshot_of([*starting, *unreported, *served])

    assert scaler.decide(0.0, snapshot, count=4, ready=4) is None
    assert scaler.decide(1.0, snapshot, count=6, ready=4) == Decision(
        5, "in_flight 9 at most, under 10 for 0 s: 6 -> 5 workers"
    )


def test_what_its_start_cost_is_no_load_of_a_worker() -> None:
    """Its first figures tell of that: they count as little as none."""
    scaler = scaler_of(busy(up_after=0.0), settle=1.0)

    assert scaler.decide(0.0, at(50), count=1, ready=1) is None
    assert scaler.decide(0.9, at(50), count=1, ready=1) is None
    assert scaler.decide(1.0, at(50), count=1, ready=1) is not None


def test_one_that_has_not_served_yet_does_not_look_idle() -> None:
    """It will soon do as much as the others; whether it does is seen once it has settled."""
    scaler = scaler_of(busy(down_after=0.0), settle=1.0)
    old, fresh = worker(1, requests_in_flight=7), worker(2)

    assert scaler.decide(0.0, snapshot_of([old]), count=1, ready=1) is None
    assert scaler.decide(1.0, snapshot_of([old, fresh]), count=2, ready=2) is None
    assert scaler.decide(1.9, snapshot_of([old, fresh]), count=2, ready=2) is None
    assert scaler.decide(2.0, snapshot_of([old, fresh]), count=2, ready=2) is not None


def test_one_that_comes_back_settles_anew() -> None:
    """Nothing is kept of workers that are gone."""
    scaler = scaler_of(busy(up_after=0.0), settle=1.0)
    for now in (0.0, 2.0):
        assert scaler.decide(now, at(50), count=1, ready=1) is None
        assert scaler.decide(now + 1.0, snapshot_of([]), count=1, ready=0) is None


def test_without_figures_nothing_is_decided() -> None:
    """Nor is anything known of before: what was so need not be so any more."""
    scaler = scaler_of(busy(3, 8))
    nothing = [snapshot_of([]), snapshot_of([booting(1), worker(2, rss_bytes=0)])]
    for now, snapshot in enumerate(nothing):
        assert scaler.decide(now, snapshot, count=1, ready=1) is None

    assert scaler.decide(10.0, at(20, 4), count=4, ready=4) is None
    assert scaler.decide(19.0, nothing[1], count=4, ready=0) is None
    assert scaler.decide(20.0, at(20, 4), count=4, ready=4) is None
    assert scaler.decide(30.0, at(20, 4), count=4, ready=4) is not None


@pytest.mark.parametrize("broken", [math.nan, -1.0, None, "many", ZeroDivisionError])
def test_a_metric_that_fails_decides_nothing(broken: Any) -> None:
    """It is told, and the while that counts begins anew."""
    answers: list[Any] = [20.0, broken, 20.0, 20.0]

    def metric(snapshot: Snapshot) -> float:
        answer = answers.pop(0)
        if answer is ZeroDivisionError:
            raise ZeroDivisionError
        return answer  # type: ignore[no-any-return]

    scaler = scaler_of(busy(metric=metric))
    assert scaler.decide(0.0, at(0), count=1, ready=1) is None
    with pytest.raises(ConfigError, match="autoscale metric metric"):
        scaler.decide(10.0, at(0), count=1, ready=1)

    assert scaler.decide(11.0, at(0), count=1, ready=1) is None
    assert scaler.decide(21.0, at(0), count=1, ready=1) is not None


def test_after_a_decision_it_rests() -> None:
    """Also when the load asks for the opposite."""
    role = Role(busy(cooldown=300.0), count=2)
    role.run([30.0] * 11 + [0.0] * 299)
    assert role.counts == [3]

    role.run([0.0])
    assert role.counts == [3, 2]
    assert role.decisions[1][0] - role.decisions[0][0] == 300.0


def test_another_number_of_workers_is_another_case() -> None:
    """When somebody scales by hand, what was before says nothing of it."""
    scaler = scaler_of(busy())
    for now in range(10):
        assert scaler.decide(now, at(30, 2), count=2, ready=2) is None
    for now in range(10, 20):
        assert scaler.decide(now, at(20, 3), count=3, ready=3) is None

    assert scaler.decide(20.0, at(20, 3), count=3, ready=3) is not None


def test_max_is_the_end() -> None:
    """However much there is to do; and what lasts there is not counted against going down."""
    role = Role(busy(high=3))
    role.run([1e6] * 1000)
    assert role.counts == [2, 3]

    role.run([0.0] * 60)
    assert role.counts == [2, 3]
    role.run([0.0])
    assert role.counts == [2, 3, 2]


def test_min_is_the_end() -> None:
    """However little there is to do."""
    role = Role(busy(3), count=7)
    role.run([0.0] * 1000)

    assert role.counts == [4, 3]


@pytest.mark.parametrize(
    ("count", "decision"),
    [
        (1, Decision(3, "fewer than min=3: 1 -> 3 workers")),
        (9, Decision(5, "more than max=5: 9 -> 5 workers")),
    ],
)
def test_a_number_that_is_not_allowed_is_corrected(count: int, decision: Decision) -> None:
    """At once, whatever the load, but not before there are figures."""
    for value in (0, 10, 1000):
        scaler = scaler_of(busy(3, 5))
        assert scaler.decide(0.0, snapshot_of([]), count=count, ready=count) is None
        assert scaler.decide(1.0, at(value, count), count=count, ready=count) == decision


@pytest.mark.parametrize(
    ("ready", "to"), [(8, 4), (7, 4), (6, 4), (5, 5), (4, 6), (3, 7), (2, None), (1, None)]
)
def test_min_are_left_that_serve(ready: int, to: int | None) -> None:
    """Even if all who go are among those who do."""
    scaler = scaler_of(busy(2, down_after=0.0))
    decision = scaler.decide(0.0, at(0, ready), count=8, ready=ready)

    assert (decision and decision.count) == to


def test_who_serves_beside_its_successor_is_not_counted_on() -> None:
    """In a reload more serve than there are places: the old ones soon go."""
    scaler = scaler_of(busy(3, down_after=0.0))
    decision = scaler.decide(0.0, at(0, 6), count=4, ready=6)

    assert decision is not None
    assert decision.count == 3


def test_places_that_stay_empty_call_for_no_further_ones() -> None:
    """Half of the workers crash and are held back: what is done is done by the others."""
    scaler = scaler_of(busy(up_after=0.0))

    assert scaler.decide(0.0, at(20, 2), count=4, ready=2) is None
    assert scaler.decide(1.0, at(21, 2), count=4, ready=2) == Decision(
        5, "in_flight 21 over 10 for 0 s: 4 -> 5 workers"
    )


def test_one_too_many_stays_while_min_would_not_serve() -> None:
    """Nothing is decided, and no rest begins, until that is so."""
    scaler = scaler_of(busy(2, 4))

    assert scaler.decide(0.0, at(1000, 2), count=6, ready=2) is None
    assert scaler.decide(1.0, at(1000, 3), count=6, ready=3) == Decision(
        5, "more than max=4: 6 -> 5 workers"
    )


def test_workers_of_a_role_follow_their_own_load() -> None:
    """What another role does is not theirs."""
    scaler = scaler_of(busy(up_after=0.0, down_after=0.0))
    jobs = [worker(n, role="jobs", requests_in_flight=1000) for n in (1, 2, 3)]

    assert scaler.decide(0.0, snapshot_of([*jobs, worker(4)]), count=1, ready=1) is None


configs = st.builds(
    lambda low, more, **values: busy(low, low + more, **values),
    st.integers(1, 5),
    st.integers(0, 20),
    target=st.floats(1e-6, 1e6),
    up_after=st.floats(0.0, 5.0),
    down_after=st.floats(0.0, 10.0),
    cooldown=st.floats(0.0, 10.0),
)
values = st.one_of(st.floats(0.0, 1e7), st.floats(0.0), st.sampled_from([0.0, 5e-324, 1e308]))
finite = values.filter(math.isfinite)
looks = st.tuples(st.floats(0.0, 10.0), finite, st.floats(0.0, 1.0), st.booleans())


@given(configs, st.lists(looks, max_size=60), st.data())
@settings(deadline=None)
def test_any_history_stays_within_what_is_allowed(
    config: Autoscale, history: list[tuple[float, float, float, bool]], data: st.DataObject
) -> None:
    """From min to max, never fewer ready than min, and once a cooldown."""
    scaler, now, last = scaler_of(config), 0.0, -math.inf
    count = data.draw(st.integers(config.min, config.max))
    for wait, value, share, boots in history:
        now += wait
        ready = max(round(count * share), 1)
        others = [booting(100)] if boots else []
        snapshot = snapshot_of([*at(value, ready).workers.values(), *others])
        decision = scaler.decide(now, snapshot, count=count, ready=ready)
        if decision is None:
            continue
        assert config.min <= decision.count <= config.max
        assert count // 2 <= decision.count <= 2 * count
        assert decision.count != count
        assert decision.count > count or ready - (count - decision.count) >= config.min
        assert now - last >= config.cooldown or now >= last + config.cooldown
        count, last = decision.count, now


@given(configs, st.lists(finite, max_size=20), finite, finite, st.data())
@settings(deadline=None)
def test_more_load_never_means_fewer_workers(
    config: Autoscale, history: list[float], one: float, other: float, data: st.DataObject
) -> None:
    """After the same past, at the same moment."""
    count = data.draw(st.integers(config.min, config.max))
    ready = data.draw(st.integers(1, count))

    def count_after(last: float) -> int:
        scaler, decision = scaler_of(config), None
        for now, value in enumerate([*history, last]):
            decision = scaler.decide(now, at(value, ready), count=count, ready=ready)
        return decision.count if decision else count

    assert count_after(min(one, other)) <= count_after(max(one, other))


@given(st.floats(0.0, 1e3), st.floats(0.0, 1e3), st.integers(1, 30))
@settings(deadline=None)
def test_a_higher_load_ends_with_no_fewer_workers(one: float, other: float, start: int) -> None:
    """Also over many decisions, from the same start."""

    def end(load: float) -> int:
        role = Role(busy(1, 30, up_after=1.0, down_after=2.0, cooldown=1.0), count=start)
        role.run([load] * 60)
        return role.count

    assert end(min(one, other)) <= end(max(one, other))


# ---- figures of another time


@pytest.mark.parametrize(("load", "after"), [(15.0, 10.0), (0.0, 60.0)])
def test_a_pause_decides_nothing(load: float, after: float) -> None:
    """What was seen before it does not add up with what is seen after it."""
    role = Role(busy(), count=2)
    role.run([2 * load] * 9)
    role.now += 3600.0
    role.scaler.forget()
    role.run([2 * load] * 9)
    assert role.decisions == []

    role.run([2 * load] * 60)
    assert role.decisions[0][0] == 9 + 3600.0 + after


def test_what_is_reported_first_after_a_pause_does_not_count() -> None:
    """It is about the pause, too: a loop that stood still was late by all of it."""
    scaler = scaler_of(busy(metric="lag", target=0.1, up_after=0.0), settle=1.0)
    quiet, late = (snapshot_of([worker(1, loop_lag_mean=lag)]) for lag in (0.0, 60.0))
    assert scaler.decide(1000.0, quiet, count=1, ready=1) is None
    assert scaler.decide(1001.0, quiet, count=1, ready=1) is None
    scaler.forget()

    assert scaler.decide(1061.0, late, count=1, ready=1) is None
    assert scaler.decide(1062.0, quiet, count=1, ready=1) is None


@pytest.mark.parametrize(("metric", "decides"), [("cpu", False), ("in_flight", True)])
def test_figures_that_are_old_decide_nothing(metric: str, decides: bool) -> None:
    """A worker that reports no more may be at anything by now; requests we count ourselves."""
    scaler = scaler_of(busy(metric=metric, target=10.0, up_after=0.0), settle=1.0)
    figures = {"cpu_percent": 90.0, "requests_in_flight": 90, "report_age": 5.0}
    snapshot = snapshot_of([worker(1, **figures)])
    decisions = [scaler.decide(now, snapshot, count=1, ready=1) for now in (1000.0, 1001.0)]

    assert (decisions[1] is not None) == decides


def test_while_the_number_changes_nothing_is_decided() -> None:
    """It could be carried out only when that is over; then the load of that time decides."""
    scaler = scaler_of(busy(up_after=0.0))
    assert scaler.decide(1000.0, at(90.0), count=1, ready=1, is_changing=True) is None
    assert scaler.decide(1001.0, at(5.0), count=1, ready=1) is None
    assert scaler.decide(1002.0, at(90.0), count=1, ready=1) is not None
