"""Decides how many workers a role should have, by what its workers report.

The load of all workers is the mean load of those that have figures, times their number. Workers
that still start do not count: their zeroes do not pull the mean down, and the load that they will
take from the others does not call for still more workers.

    more    once the load has been over the target for a while
    fewer   once fewer workers would have been below the target, with a margin, for a while

Between the two is a band in which nothing changes, so a load near the target does not make
workers come and go.

A decision is about the present: old figures do not count, and a pause of the primary or the
machine makes the policy forget all that it saw before.
"""

import math
from dataclasses import dataclass

from msgspec.structs import replace

from aiocluster.config.autoscale import Autoscale
from aiocluster.errors import ConfigError
from aiocluster.metrics.snapshot import Snapshot, WorkerMetrics
from aiocluster.primary.scaling.load import is_booting, load_of_one, measured

# The share by which fewer workers must be below the target. Figures jitter by a tenth or so: with
# twice that, a step down does not cause the next step up.
_MARGIN = 0.2

# 3 workers at 0.1 are 0.30000000000000004: that must not call for a fourth.
_ROUNDING = 1e-9

# A report is old after so many intervals of reports, and at least so many seconds. A late loop
# reports late, and its worker must count.
_OLD_AFTER = 3.0

_UNITS = {"cpu": " %", "lag": " s"}


@dataclass(frozen=True, slots=True)
class Decision:
    """A number of workers for a role, and the reason, in words for a log and an event."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class _Sample:
    """The figures of one look at the workers."""

    now: float
    count: int  # workers that there should be
    ready: int
    measured: int  # workers with figures
    value: float  # the mean load of one
    is_booting: bool

    @property
    def load(self) -> float:
        """Return the load of all workers that have figures: there is surely as much."""
        return self.value * self.measured

    @property
    def most(self) -> float:
        """Return the load of all, if workers without figures do as much as the others."""
        return self.value * max(self.measured, self.ready)

    @property
    def awaits_more(self) -> bool:
        """True if there will soon be more workers than serve now."""
        return self.is_booting and self.ready < self.count


@dataclass(slots=True)
class _Streak:
    """An unbroken time in which a condition held, and the load meanwhile."""

    since: float = math.inf
    samples: int = 0
    loads: float = 0.0  # added up
    values: float = 0.0  # added up
    highest_load: float = 0.0
    highest_value: float = 0.0

    def note(self, sample: _Sample) -> None:
        """Note that the condition holds now."""
        self.since = min(self.since, sample.now)
        self.samples += 1
        self.loads += sample.load
        self.values += sample.value
        self.highest_load = max(self.highest_load, sample.most)
        self.highest_value = max(self.highest_value, sample.value)

    def lasts(self, sample: _Sample, seconds: float) -> bool:
        """Return True if the condition has held for `seconds`."""
        return self.samples > 0 and sample.now - self.since >= seconds


class AutoscalePolicy:
    """A decision maker for one role. It has no clock of its own, and starts nothing.

    A worker's figures count once it has been ready for `settle` seconds, the interval of its
    reports: the first report, sent when the worker is ready, says what its start cost.
    """

    def __init__(self, config: Autoscale, role: str, *, settle: float) -> None:
        self._config = config
        self._role = role
        self._settle = settle
        # The primary counts requests in flight itself, at the moment of the look.
        by_reports = config.metric != "in_flight"
        self._longest_age = _OLD_AFTER * max(settle, 1.0) if by_reports else math.inf
        self._seen_since: dict[int, float] = {}  # by worker: when it was first ready, with figures
        self._count = 0  # of workers at the last look
        self._over = _Streak()
        self._under = _Streak()
        self._rests_until = -math.inf

    def decide(
        self,
        now: float,
        snapshot: Snapshot,
        *,
        count: int,
        ready: int,
        is_changing: bool = False,
    ) -> Decision | None:
        """Look at the workers at `now`; return how many there shall be, if not `count`.

        `count` is the number of the role's slots, `ready` that of its workers that serve; of
        `snapshot` only the workers count. A snapshot without figures decides nothing. While the
        number `is_changing` nothing is decided, as it could be carried out only later.
        ConfigError, and no decision, if the user's metric fails.
        """
        sample = self._sample(now, snapshot, count, ready)
        if sample is None:
            return None
        self._weigh(sample)
        if is_changing or now < self._rests_until:
            return None
        decision = self._decision(sample)
        if decision is not None:
            self._rests_until = now + self._config.cooldown
        return decision

    def forget(self) -> None:
        """Forget what was seen before a pause: it says nothing about the present."""
        self._forget_streaks()
        self._seen_since.clear()  # the first reports are about the pause, too

    def _sample(self, now: float, snapshot: Snapshot, count: int, ready: int) -> _Sample | None:
        """Return the sample of now; if no worker has figures, return None and forget the past."""
        workers = self._settled(now, measured(snapshot, self._role, self._longest_age))
        if not workers:
            self._forget_streaks()
            return None
        try:
            value = load_of_one(self._config, replace(snapshot, workers=workers))
        except ConfigError:
            self._forget_streaks()
            raise
        booting = is_booting(snapshot, self._role)
        return _Sample(now, count, ready, len(workers), value, booting)

    def _settled(self, now: float, workers: dict[int, WorkerMetrics]) -> dict[int, WorkerMetrics]:
        self._seen_since = {number: self._seen_since.get(number, now) for number in workers}
        return {
            number: worker
            for number, worker in workers.items()
            if now - self._seen_since[number] >= self._settle
        }

    def _forget_streaks(self) -> None:
        self._over, self._under = _Streak(), _Streak()

    def _weigh(self, sample: _Sample) -> None:
        """Note for how long the workers have been too few or too many for the load."""
        if sample.count != self._count:
            # The load under another number of workers says nothing about this number.
            self._count = sample.count
            self._forget_streaks()
        # While new workers start, the others' load grows, and it falls when the new ones are ready.
        # So the load meanwhile does not show that still more are needed.
        count = sample.count
        needed = _workers_for(sample.load, self._config.target, count + 1)
        if needed > count and not sample.awaits_more:
            self._over.note(sample)
        else:
            self._over = _Streak()
        if _workers_for(sample.most, self._low_target, count) < count:
            self._under.note(sample)
        else:
            self._under = _Streak()

    def _decision(self, sample: _Sample) -> Decision | None:
        config = self._config
        if not config.min <= sample.count <= config.max:
            return self._correction(sample)
        if self._over.lasts(sample, config.up_after):
            return self._more(sample)
        if self._under.lasts(sample, config.down_after):
            return self._fewer(sample)
        return None

    def _correction(self, sample: _Sample) -> Decision | None:
        """Return the way back from a number out of bounds, which scale() may have set."""
        config = self._config
        if sample.count < config.min:
            return _change(sample, config.min, f"fewer than min={config.min}")
        return _change(sample, self._spared(sample, config.max), f"more than max={config.max}")

    def _more(self, sample: _Sample) -> Decision | None:
        config, over = self._config, self._over
        needed = _workers_for(over.loads / over.samples, config.target, config.max)
        # At most twice as many in one step: figures under overload may exaggerate.
        to = min(max(needed, sample.count + 1), 2 * sample.count, config.max)
        value = self._figure(over.values / over.samples)
        reason = f"{config.metric_name} {value} over {self._figure(config.target)}"
        return _change(sample, to, f"{reason} for {sample.now - over.since:.3g} s")

    def _fewer(self, sample: _Sample) -> Decision | None:
        config, under = self._config, self._under
        needed = _workers_for(under.highest_load, self._low_target, config.max)
        # Lag is not in proportion to the load: it shows the direction only.
        step = 1 if config.metric == "lag" else max(sample.count // 2, 1)
        to = self._spared(sample, max(needed, sample.count - step, config.min))
        value = self._figure(under.highest_value)
        reason = f"{config.metric_name} {value} at most, under {self._figure(config.target)}"
        return _change(sample, to, f"{reason} for {sample.now - under.since:.3g} s")

    def _spared(self, sample: _Sample, to: int) -> int:
        """Return `to`, or more, so that `min` ready workers stay even if only ready ones go."""
        spare = max(sample.ready - self._config.min, 0)
        return max(to, sample.count - spare)

    @property
    def _low_target(self) -> float:
        return self._config.target * (1 - _MARGIN)

    def _figure(self, value: float) -> str:
        return f"{value:.3g}{_UNITS.get(self._config.metric_name, '')}"


def _workers_for(load: float, target: float, most: int) -> int:
    """Return how many workers carry `load` with none over `target`; `most` at most."""
    return math.ceil(min(load / target, most) - _ROUNDING)


def _change(sample: _Sample, to: int, why: str) -> Decision | None:
    if to == sample.count:
        return None
    return Decision(to, f"{why}: {sample.count} -> {to} worker{'' if to == 1 else 's'}")
