"""When it is time to stand last, and whether the loop is slow, told from when it was woken."""

import pytest

from aiocluster.worker.accept.pace import Pace


def paced(*moments: float) -> Pace:
    pace = Pace()
    for moment in moments:
        pace.woken(moment)
    return pace


@pytest.mark.parametrize(
    ("moments", "is_time", "was_slow"),
    [
        ((5.0,), True, False),  # the first: nothing is known of the time before
        ((5.0, 5.001), False, False),
        ((5.0, 5.002), True, True),
        ((5.0, 5.002, 5.003), False, False),
        ((5.0, 5.002, 5.003, 6.0), True, False),
        ((5.0, 5.002, 5.003, 6.0, 7.0), True, True),
    ],
)
def test_the_last_two_wake_ups_tell(
    moments: tuple[float, ...], is_time: bool, was_slow: bool
) -> None:
    """Slow is who was woken long after the time before, twice; quick at once."""
    pace = paced(*moments)

    assert (pace.is_time, pace.was_slow) == (is_time, was_slow)


def test_who_is_quick_stands_last_now_and_then() -> None:
    """Else one of many quick ones would be woken for all."""
    pace, times = Pace(), []
    for number in range(30):
        pace.woken(5.0 + number * 0.001)
        times.append(pace.is_time)

    assert [number for number, is_time in enumerate(times) if is_time] == [0, 9, 18, 27]
