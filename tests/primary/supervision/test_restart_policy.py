"""When a dead worker may start again, with made-up times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiocluster.primary.supervision.restart_policy import RestartConfig, RestartPolicy
from aiocluster.primary.workers.exits import KILLED_WEIGHT


def policy(*, jitter: float = 1.0, max_delay: float = 15.0) -> RestartPolicy:
    config = RestartConfig(max_failures=3.0, half_life=30.0, max_delay=max_delay)
    return RestartPolicy(config, lambda: jitter)


def test_the_first_failures_are_free() -> None:
    """As many as `max_failures` failures at one time are each replaced at once."""
    restarts = policy()

    assert [restarts.delay_after_failure(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_each_failure_beyond_doubles_the_wait() -> None:
    """A crash loop is slowed down more and more."""
    restarts = policy()

    waits = [restarts.delay_after_failure(100.0) for _ in range(6)][3:]

    assert waits == pytest.approx([0.2, 0.4, 0.8])


def test_the_wait_has_a_limit() -> None:
    """However often it crashed, the next start is at most `max_delay` away."""
    restarts = policy(max_delay=5.0)

    waits = [restarts.delay_after_failure(100.0) for _ in range(2000)]

    assert max(waits) == waits[-1] == 5.0


def test_a_failure_counts_half_after_its_half_life() -> None:
    """Old failures fade."""
    restarts = policy()
    for _ in range(4):
        restarts.delay_after_failure(100.0)

    assert restarts.failures(100.0) == 4.0
    assert restarts.failures(130.0) == pytest.approx(2.0)
    assert restarts.failures(160.0) == pytest.approx(1.0)


def test_a_crash_now_and_then_is_always_replaced_at_once() -> None:
    """Failures that are rare never add up, however many there have been."""
    restarts = policy()

    assert {restarts.delay_after_failure(100.0 * day) for day in range(1000)} == {0.0}


def test_after_a_quiet_time_the_free_failures_are_back() -> None:
    """A loop that was mended leaves nothing behind."""
    restarts = policy()
    for _ in range(20):
        restarts.delay_after_failure(100.0)

    assert restarts.delay_after_failure(100.0 + 300.0) == 0.0


def test_a_clock_that_steps_back_makes_no_failure_heavier() -> None:
    """Failures never grow with time."""
    restarts = policy()
    restarts.delay_after_failure(100.0)

    assert restarts.failures(50.0) == 1.0


def test_a_kill_from_outside_counts_a_quarter() -> None:
    """An operator's kills say less about the code than crashes do."""
    restarts = policy()

    waits = [restarts.delay_after_failure(100.0, KILLED_WEIGHT) for _ in range(13)]

    assert waits[:12] == [0.0] * 12
    assert waits[12] > 0.0


def test_what_weighs_nothing_is_never_delayed() -> None:
    """A worker that was asked to go is replaced at once, as often as it is asked."""
    restarts = policy()

    assert {restarts.delay_after_failure(100.0, 0.0) for _ in range(100)} == {0.0}


@given(jitter=st.floats(0.0, 1.0), failures=st.integers(4, 60))
def test_jitter_takes_off_at_most_a_quarter(jitter: float, failures: int) -> None:
    """Workers that died together come back apart, but not much sooner than they should."""
    spread, latest = policy(jitter=jitter), policy(jitter=1.0)
    for _ in range(failures):
        wait = spread.delay_after_failure(100.0)
        limit = latest.delay_after_failure(100.0)

    assert 0.75 * limit <= wait <= limit


def test_it_recovers_when_half_of_the_free_failures_are_left() -> None:
    """So that one more failure does not set the alarm off again at once."""
    restarts = policy()
    for _ in range(6):
        restarts.delay_after_failure(100.0)
    assert restarts.is_past_limit(100.0)

    left = restarts.recovers_in(100.0)

    assert left == pytest.approx(60.0)  # 6 to 1.5 is two half-lives
    assert restarts.failures(100.0 + left) == pytest.approx(1.5)
    assert restarts.recovers_in(100.0 + left + 0.01) == 0.0
    assert not restarts.is_past_limit(100.0 + left)


def test_where_no_failure_is_free_it_recovers_too() -> None:
    """Not only after an eternity."""
    restarts = RestartPolicy(RestartConfig(max_failures=0.0, half_life=30.0), lambda: 1.0)
    restarts.delay_after_failure(100.0)

    assert 0.0 < restarts.recovers_in(100.0) <= 60.0
