"""When a loop counts as stuck, as lagging, as hung: made-up beats, made-up times."""

import pytest

from aiocluster.primary.supervision.stall_detector import (
    BEAT,
    Alarm,
    StallDetector,
    StallLimits,
    counted,
)
from aiocluster.worker import heartbeat as heartbeat

LIMITS = StallLimits(steal_after=0.25, lag_warning=1.0, hang_timeout=30.0)

TICK = 0.0625  # adds up exactly


def alarms(detector: StallDetector, seconds: float, beat: int = 1) -> list[tuple[float, Alarm]]:
    """Feel the same beat for so long; return each alarm and the stall it came at."""
    felt = [(detector.observe(beat, TICK), detector.stalled) for _ in range(round(seconds / TICK))]
    return [(stalled, alarm) for alarm, stalled in felt if alarm is not None]


@pytest.fixture
def detector() -> StallDetector:
    """Of a worker that has just beaten."""
    detector = StallDetector(LIMITS)
    detector.observe(1, TICK)
    return detector


def test_a_beat_is_as_long_here_as_in_the_worker() -> None:
    """The two processes may not import each other."""
    assert heartbeat._TICK == BEAT


def test_a_heart_that_beats_never_stalls() -> None:
    """However long the worker lives."""
    detector = StallDetector(LIMITS)
    for beat in range(1, 10_000):
        assert detector.observe(beat, TICK) is None
        assert (detector.stalled, detector.is_stuck) == (0.0, False)


def test_a_stall_just_below_a_limit_raises_nothing(detector: StallDetector) -> None:
    """What has not been reached is not told."""
    assert alarms(detector, 1.0625) == []
    assert detector.observe(2, TICK) is None


def test_a_lag_is_told_once_and_a_hang_once(detector: StallDetector) -> None:
    """In one episode, however long it lasts."""
    assert alarms(detector, 100.0) == [(1.125, Alarm.LAGS), (30.0, Alarm.HANGS)]


def test_the_next_beat_ends_an_episode_and_another_begins_anew(detector: StallDetector) -> None:
    """Nothing of the first counts for the second."""
    alarms(detector, 29.0)
    assert detector.was_told
    detector.observe(2, TICK)
    assert (detector.stalled, detector.was_told) == (0.0, False)

    assert alarms(detector, 1.0, beat=2) == []
    assert alarms(detector, 1.0, beat=2) == [(1.125, Alarm.LAGS)]


def test_a_paused_primary_holds_nothing_against_anybody(detector: StallDetector) -> None:
    """A tick that is an hour late adds little more than one that is on time."""
    for _ in range(5):
        assert detector.observe(1, counted(elapsed=3600.0, due=BEAT)) is None
    assert detector.stalled < 1.0


def test_a_starved_primary_counts_on_and_finds_what_hangs(detector: StallDetector) -> None:
    """Ticks that all come late are slower to add up, and still do."""
    ticks = [detector.observe(1, counted(elapsed=1.0, due=BEAT)) for _ in range(300)]

    assert [alarm for alarm in ticks if alarm] == [Alarm.LAGS, Alarm.HANGS]
    assert ticks.index(Alarm.HANGS) > 150


def test_a_tick_that_is_on_time_counts_whole() -> None:
    """A little late or a little early is on time."""
    assert [counted(elapsed, due=0.1) for elapsed in (0.09, 0.1, 0.12)] == [0.09, 0.1, 0.12]


@pytest.mark.parametrize(
    ("lag_warning", "hang_timeout", "expected"),
    [
        (0.0, 0.0, []),
        (0.0, 30.0, [Alarm.HANGS]),
        (1.0, 0.0, [Alarm.LAGS]),
        (5.0, 2.0, [Alarm.HANGS]),  # it is being ended: no more is to be told
        (2.0, 2.0, [Alarm.HANGS]),
    ],
)
def test_each_limit_may_be_off_and_in_any_order(
    lag_warning: float, hang_timeout: float, expected: list[Alarm]
) -> None:
    """0 is never."""
    detector = StallDetector(StallLimits(0.25, lag_warning, hang_timeout))
    detector.observe(1, TICK)

    assert [alarm for _, alarm in alarms(detector, 100.0)] == expected


def test_a_heart_that_was_stopped_on_purpose_is_not_watched(detector: StallDetector) -> None:
    """A worker that leaves has no loop any more, and one that boots has none yet."""
    alarms(detector, 20.0)

    assert alarms(detector, 100.0, beat=0) == []
    assert not detector.is_stuck
    assert alarms(StallDetector(LIMITS), 100.0, beat=0) == []


def test_it_is_stuck_after_steal_after(detector: StallDetector) -> None:
    """And not before; the next beat frees it."""
    alarms(detector, 0.25 - TICK)
    assert not detector.is_stuck
    alarms(detector, TICK)
    assert detector.is_stuck

    detector.observe(2, TICK)
    assert not detector.is_stuck


def test_two_beats_apart_is_never_stuck() -> None:
    """However short steal_after is: that is what a healthy loop looks like."""
    detector = StallDetector(StallLimits(0.01, 1.0, 30.0))
    detector.observe(1, TICK)
    alarms(detector, 3 * TICK)

    assert not detector.is_stuck


def test_one_that_left_connections_untaken_is_stuck_until_it_beats(detector: StallDetector) -> None:
    """Otherwise, its queue just emptied, it would be given the next ones at once."""
    detector.is_late = True
    detector.observe(1, TICK)
    assert detector.is_stuck

    detector.observe(2, TICK)
    assert not detector.is_stuck
