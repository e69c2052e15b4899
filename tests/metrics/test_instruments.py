import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiocluster.metrics.instruments import (
    FIRST_BUCKET,
    HIGHEST_NS,
    LAST_BUCKET,
    LOWEST_NS,
    Histogram,
    LagMeter,
    Window,
    bucket_of,
    count,
    mean,
    merge,
    quantile,
    quantiles,
)

# Half a bucket: an octave has 32, and the lowest of them is the widest beside its values.
RELATIVE_ERROR = 1 / 64

durations = st.integers(LOWEST_NS, HIGHEST_NS)
histograms = st.dictionaries(
    st.integers(FIRST_BUCKET, LAST_BUCKET), st.integers(1, 1000), max_size=20
)


def recorded(*nanoseconds: int) -> dict[int, int]:
    histogram = Histogram()
    for each in nanoseconds:
        histogram.record(each)
    return histogram.take()


@given(durations)
def test_one_duration_comes_back_nearly_exact(nanoseconds: int) -> None:
    """From 1 µs to 1000 s, what is told is within 1.6 % of what was measured."""
    told = quantile(recorded(nanoseconds), 0.5)

    assert told == pytest.approx(nanoseconds / 1e9, rel=RELATIVE_ERROR)


@given(st.lists(durations, min_size=1, max_size=200), st.floats(0.0, 1.0))
def test_a_quantile_is_that_of_the_sorted_durations(taken: list[int], q: float) -> None:
    """Whatever was recorded, a quantile is the duration of that rank, as exact as one alone."""
    exact = sorted(taken)[max(math.ceil(q * len(taken)), 1) - 1]

    assert quantile(recorded(*taken), q) == pytest.approx(exact / 1e9, rel=RELATIVE_ERROR)


@given(st.lists(durations, min_size=1, max_size=200))
def test_a_mean_is_nearly_exact(taken: list[int]) -> None:
    """The mean of the buckets is within 1.6 % of the mean of the durations."""
    exact = sum(taken) / len(taken) / 1e9

    assert mean(recorded(*taken)) == pytest.approx(exact, rel=RELATIVE_ERROR)


@given(durations, durations)
def test_buckets_keep_the_order_of_durations(one: int, other: int) -> None:
    """A longer duration is never in an earlier bucket."""
    assert (bucket_of(one) <= bucket_of(other)) or one > other


@given(st.integers(-(2**70), 2**70))
def test_record_and_bucket_of_agree(nanoseconds: int) -> None:
    """`record` has the sum written out, for speed; it is the same sum, at any number."""
    assert recorded(nanoseconds) == {bucket_of(nanoseconds): 1}


@pytest.mark.parametrize("too_short", [-1, 0, 1, 31, 32, LOWEST_NS - 1])
def test_what_is_too_short_counts_as_the_shortest(too_short: int) -> None:
    """Below 1 µs nothing fails, and no bucket is made for it."""
    assert recorded(too_short) == {FIRST_BUCKET: 1}


@pytest.mark.parametrize("too_long", [HIGHEST_NS + 1, 2**64, 2**1000])
def test_what_is_too_long_counts_as_the_longest(too_long: int) -> None:
    """Above 1000 s nothing fails, and no bucket is made for it."""
    assert recorded(too_long) == {LAST_BUCKET: 1}


def test_take_forgets_what_it_returned() -> None:
    """Each duration is in exactly one take, so that deltas can be added up."""
    histogram = Histogram()
    histogram.record(5_000)
    histogram.record(5_000)

    assert histogram.take() == {bucket_of(5_000): 2}
    assert histogram.take() == {}
    histogram.record(7_000)
    assert histogram.take() == {bucket_of(7_000): 1}


@given(histograms, histograms, histograms)
def test_the_order_of_merging_does_not_matter(
    a: dict[int, int], b: dict[int, int], c: dict[int, int]
) -> None:
    """Workers report when they like: any order and any grouping give the same."""
    assert merge(a, b, c) == merge(c, b, a) == merge(a, merge(b, c)) == merge(merge(a, b), c)


@given(st.lists(durations), st.lists(durations))
def test_merging_equals_recording_in_one_place(here: list[int], there: list[int]) -> None:
    """Two workers' histograms merged are what one worker would have counted."""
    assert merge(recorded(*here), recorded(*there)) == recorded(*here, *there)


def test_merging_changes_none_of_its_parts() -> None:
    """A worker's own buckets stay its own."""
    part = {FIRST_BUCKET: 1}

    assert merge(part, part) == {FIRST_BUCKET: 2}
    assert merge() == {}
    assert part == {FIRST_BUCKET: 1}


@given(histograms, st.lists(st.floats(0.0, 1.0)))
def test_quantiles_in_one_pass_are_those_one_by_one(
    buckets: dict[int, int], shares: list[float]
) -> None:
    """Asking for several quantiles at once saves time and changes nothing."""
    shares.sort()

    assert quantiles(buckets, shares) == [quantile(buckets, share) for share in shares]


def test_nothing_recorded_is_zero() -> None:
    """Before the first request, figures are 0 and nothing fails."""
    assert (quantile({}, 0.99), mean({}), count({})) == (0.0, 0.0, 0)


def test_lag_is_the_mean_and_the_worst_since_the_last_take() -> None:
    """An old peak is told once."""
    meter = LagMeter()
    meter.record(0.1)
    meter.record(0.3)

    mean_lag, max_lag = meter.take()

    assert mean_lag == pytest.approx(0.2)
    assert max_lag == 0.3
    assert meter.take() == (0.0, 0.0)
    meter.record(0.05)
    assert meter.take() == (0.05, 0.05)


def test_an_early_timer_is_no_lag() -> None:
    """A timer's coarse clock cannot make lag negative."""
    meter = LagMeter()
    meter.record(-0.001)

    assert meter.take() == (0.0, 0.0)


def test_a_window_forgets_what_is_too_old() -> None:
    """Buckets leave as they came, when their time is over and not before."""
    window = Window(60.0)
    window.add({500: 1}, now=100.0)
    window.add({500: 2, 501: 1}, now=130.0)

    assert window.buckets(now=159.9) == {500: 3, 501: 1}
    assert window.buckets(now=160.0) == {500: 2, 501: 1}
    assert window.buckets(now=190.0) == {}
    assert len(window) == 0


def test_a_window_is_bounded_however_often_it_is_fed() -> None:
    """A report every 10 ms costs no more memory than one a second."""
    window = Window(60.0)

    for tick in range(20_000):
        window.add({500: 1}, now=tick / 100)
        assert len(window) <= 60

    assert window.buckets(now=200.0)[500] == pytest.approx(6_000, abs=100)


@given(st.lists(st.tuples(st.floats(0.0, 90.0), histograms), max_size=15), st.floats(0.0, 200.0))
def test_a_window_holds_what_is_surely_young_and_nothing_surely_old(
    fed: list[tuple[float, dict[int, int]]], later: float
) -> None:
    """Coalescing may drop a report up to a second early; it never keeps one too long."""
    window, now = Window(60.0), 0.0
    reports: list[tuple[float, dict[int, int]]] = []
    for pause, buckets in fed:
        now += pause
        window.add(buckets, now)
        reports.append((now, buckets))
    now += later

    held = Counter(window.buckets(now))

    assert held >= Counter(merge(*(buckets for at, buckets in reports if now - at < 59.0)))
    assert held <= Counter(merge(*(buckets for at, buckets in reports if now - at < 60.0)))


def test_what_a_window_returns_is_a_copy() -> None:
    """A snapshot does not change after it was given out."""
    window = Window(60.0)
    window.add({500: 1}, now=0.0)

    before = window.buckets(now=0.0)
    window.add({500: 1}, now=0.0)

    assert before == {500: 1}
