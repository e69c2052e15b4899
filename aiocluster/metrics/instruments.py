"""The instruments of a worker: a histogram of latencies, and a meter of its event loop's lag.

Histograms can be merged, percentiles cannot, so reports contain buckets. Buckets are log-scaled,
as in HdrHistogram: each octave of nanoseconds is cut into 32 buckets of equal width, so that a
bucket's middle is within 1.6 % of every duration in it, from 1 µs to 1000 s. A bucket is known by
its index alone, which is the same in every process. Empty buckets are not sent.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping

Buckets = Mapping[int, int]  # index of a bucket: how many durations it counted

# No request takes less than 1 µs in an event loop, and no client waits 1000 s for a response.
LOWEST_NS = 1_000
HIGHEST_NS = 1_000_000_000_000

_SUB_BITS = 5  # 32 buckets an octave
_SUB_BUCKETS = 1 << _SUB_BITS
# The highest _SUB_BITS + 1 bits of a number choose its bucket; the first of them is always set.
_KEPT_BITS = _SUB_BITS + 1

# A window forgets in steps of this: finer steps would cost memory and change no percentile.
_SLOT_SECONDS = 1.0


def bucket_of(nanoseconds: int) -> int:
    """Return the index of the bucket for this duration; the end buckets take what is beyond."""
    if nanoseconds < LOWEST_NS:
        nanoseconds = LOWEST_NS
    elif nanoseconds > HIGHEST_NS:
        nanoseconds = HIGHEST_NS
    shift = nanoseconds.bit_length() - _KEPT_BITS
    return (shift << _SUB_BITS) + (nanoseconds >> shift)


FIRST_BUCKET = bucket_of(LOWEST_NS)
LAST_BUCKET = bucket_of(HIGHEST_NS)


def _middle(index: int) -> float:
    """Return the middle of a bucket, in seconds."""
    shift = (index >> _SUB_BITS) - 1
    lowest = ((index & (_SUB_BUCKETS - 1)) + _SUB_BUCKETS) << shift
    return (lowest + ((1 << shift) - 1) / 2) / 1e9


# Calculated once: a snapshot needs the middle of each bucket in use, of each worker.
_MIDDLES = {index: _middle(index) for index in range(FIRST_BUCKET, LAST_BUCKET + 1)}


class Histogram:
    """A histogram of the durations since the last `take`.

    `record` runs once a request. A list of all 1,147 counters took 75 ns a record, a dict of
    the counters in use 110; the list costs 9 KB, once a process.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = [0] * (LAST_BUCKET + 1)

    def record(self, nanoseconds: int) -> None:
        """Count one duration."""
        # This is `bucket_of`, inlined: a call would double the cost.
        if nanoseconds < LOWEST_NS:
            nanoseconds = LOWEST_NS
        elif nanoseconds > HIGHEST_NS:
            nanoseconds = HIGHEST_NS
        shift = nanoseconds.bit_length() - _KEPT_BITS
        self._counts[(shift << _SUB_BITS) + (nanoseconds >> shift)] += 1

    def take(self) -> dict[int, int]:
        """Return the buckets counted since the last call, and reset them."""
        counts, self._counts = self._counts, [0] * (LAST_BUCKET + 1)
        return {index: count for index, count in enumerate(counts) if count}


class LagMeter:
    """A meter of the event loop's lag since the last `take`."""

    __slots__ = ("_count", "_max", "_sum")

    def __init__(self) -> None:
        self._count = 0
        self._sum = 0.0
        self._max = 0.0

    def record(self, lag_seconds: float) -> None:
        """Count one lag; a timer that fired a little early counts as 0."""
        lag = max(lag_seconds, 0.0)
        self._count += 1
        self._sum += lag
        self._max = max(self._max, lag)

    def take(self) -> tuple[float, float]:
        """Return the mean and the maximum in seconds since the last call, and reset them."""
        taken = (self._sum / self._count if self._count else 0.0, self._max)
        self._count, self._sum, self._max = 0, 0.0, 0.0
        return taken


class Window:
    """The buckets of the last `seconds`, so that an old peak does not hide a new one.

    `add` and expiry keep the sum up to date, so that reading it does not add up a minute of
    reports. At any rate of reports, the window keeps at most one slot a second.
    """

    __slots__ = ("_seconds", "_slots", "_sum")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._slots: deque[tuple[float, dict[int, int]]] = deque()
        self._sum: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, buckets: Buckets, now: float) -> None:
        """Add `buckets`, which count until they are too old."""
        self._expire(now)
        if not self._slots or now - self._slots[-1][0] >= _SLOT_SECONDS:
            self._slots.append((now, {}))
        _add(self._slots[-1][1], buckets)
        _add(self._sum, buckets)

    def buckets(self, now: float) -> dict[int, int]:
        """Return the sum of all buckets that are not too old at `now`."""
        self._expire(now)
        return self._sum.copy()

    def _expire(self, now: float) -> None:
        while self._slots and now - self._slots[0][0] >= self._seconds:
            _subtract(self._sum, self._slots.popleft()[1])


def merge(*buckets: Buckets) -> dict[int, int]:
    """Return the sum of several histograms."""
    merged: dict[int, int] = {}
    for each in buckets:
        _add(merged, each)
    return merged


def count(buckets: Buckets) -> int:
    """Return the number of durations in a histogram."""
    return sum(buckets.values())


def mean(buckets: Buckets) -> float:
    """Return the mean in seconds; 0.0 if the histogram is empty."""
    if not buckets:
        return 0.0
    return sum(_MIDDLES[index] * hits for index, hits in buckets.items()) / count(buckets)


def quantile(buckets: Buckets, q: float) -> float:
    """Return the duration in seconds that a share `q` of all did not exceed; 0.0 if empty."""
    return quantiles(buckets, (q,))[0]


def quantiles(buckets: Buckets, shares: Iterable[float]) -> list[float]:
    """Return the `quantile` of each of the ascending `shares`, in one pass over the buckets."""
    rest = iter(sorted(buckets.items()))
    total = count(buckets)
    seen, value, found = 0, 0.0, []
    for share in shares:
        # Nearest rank: a quantile is the duration of some request, never one between two.
        rank = min(max(math.ceil(share * total), 1), total)
        while seen < rank:
            index, hits = next(rest)
            seen, value = seen + hits, _MIDDLES[index]
        found.append(value)
    return found


def _add(into: dict[int, int], buckets: Buckets) -> None:
    for index, hits in buckets.items():
        into[index] = into.get(index, 0) + hits


def _subtract(out_of: dict[int, int], buckets: Buckets) -> None:
    for index, hits in buckets.items():
        left = out_of[index] - hits
        if left:
            out_of[index] = left
        else:
            del out_of[index]
