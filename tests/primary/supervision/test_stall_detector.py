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


def alarms(pulse: StallDetector, seconds: float, beat: int = 1) -> list[tuple[float, Alarm]]:
    """Feel the same beat for so long; return each alarm and the stall it came at."""
    felt = [(pulse.feel(beat, TICK), pulse.stalled) for _ in range(round(seconds / TICK))]
    return [(stalled, alarm) for alarm, stalled in felt if alarm is not None]


@pytest.fixture
def pulse() -> StallDetector:
    """Of a worker that has just beaten."""
    pulse = StallDetector(LIMITS)
    pulse.feel(1, TICK)
    return pulse


def test_a_beat_is_as_long_here_as_in_the_worker() -> None:
    """The two processes may not import each other."""
    assert heartbeat._TICK == BEAT


def test_a_heart_that_beats_never_stalls() -> None:
    """However long the worker lives."""
    pulse = StallDetector(LIMITS)
    for beat in range(1, 10_000):
        assert pulse.feel(beat, TICK) is None
        assert (pulse.stalled, pulse.is_stuck) == (0.0, False)


def test_a_stall_just_below_a_limit_raises_nothing(pulse: StallDetector) -> None:
    """What has not been reached is not told."""
    assert alarms(pulse, 1.0625) == []
    assert pulse.feel(2, TICK) is None


def test_a_lag_is_told_once_and_a_hang_once(pulse: StallDetector) -> None:
    """In one episode, however long it lasts."""
    assert alarms(pulse, 100.0) == [(1.125, Alarm.LAGS), (30.0, Alarm.HANGS)]


def test_the_next_beat_ends_an_episode_and_another_begins_anew(pulse: StallDetector) -> None:
    """Nothing of the first counts for the second."""
    alarms(pulse, 29.0)
    assert pulse.was_told
    pulse.feel(2, TICK)
    assert (pulse.stalled, pulse.was_told) == (0.0, False)

    assert alarms(pulse, 1.0, beat=2) == []
    assert alarms(pulse, 1.0, beat=2) == [(1.125, Alarm.LAGS)]


def test_a_paused_primary_holds_nothing_against_anybody(pulse: StallDetector) -> None:
    """A tick that is an hour late adds little more than one that is on time."""
    for _ in range(5):
        assert pulse.feel(1, counted(elapsed=3600.0, due=BEAT)) is None
    assert pulse.stalled < 1.0


def test_a_starved_primary_counts_on_and_finds_what_hangs(pulse: StallDetector) -> None:
    """Ticks that all come late are slower to add up, and still do."""
    ticks = [pulse.feel(1, counted(elapsed=1.0, due=BEAT)) for _ in range(300)]

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
    pulse = StallDetector(StallLimits(0.25, lag_warning, hang_timeout))
    pulse.feel(1, TICK)

    assert [alarm for _, alarm in alarms(pulse, 100.0)] == expected


def test_a_heart_that_was_stopped_on_purpose_is_not_watched(pulse: StallDetector) -> None:
    """A worker that leaves has no loop any more, and one that boots has none yet."""
    alarms(pulse, 20.0)

    assert alarms(pulse, 100.0, beat=0) == []
    assert not pulse.is_stuck
    assert alarms(StallDetector(LIMITS), 100.0, beat=0) == []


def test_it_is_stuck_after_steal_after(pulse: StallDetector) -> None:
    """And not before; the next beat frees it."""
    alarms(pulse, 0.25 - TICK)
    assert not pulse.is_stuck
    alarms(pulse, TICK)
    assert pulse.is_stuck

    pulse.feel(2, TICK)
    assert not pulse.is_stuck


def test_two_beats_apart_is_never_stuck() -> None:
    """However short steal_after is: that is what a healthy loop looks like."""
    pulse = StallDetector(StallLimits(0.01, 1.0, 30.0))
    pulse.feel(1, TICK)
    alarms(pulse, 3 * TICK)

    assert not pulse.is_stuck


def test_one_that_left_connections_untaken_is_stuck_until_it_beats(pulse: StallDetector) -> None:
    """Otherwise, its queue just emptied, it would be given the next ones at once."""
    pulse.is_late = True
    pulse.feel(1, TICK)
    assert pulse.is_stuck

    pulse.feel(2, TICK)
    assert not pulse.is_stuck
