"""The setting `autoscale`: how a role's number of workers follows its load."""

import inspect
import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from aiocluster.errors import ConfigError

NamedMetric = Literal["cpu", "lag", "in_flight"]

if TYPE_CHECKING:
    # The function takes a Snapshot, but this module may not import that one.
    Metric = NamedMetric | Callable[[Any], float]
else:
    # msgspec, which checks settings by their types, has no union with a function.
    Metric = Any

# The default targets. 70 % of a core leaves room for the seconds until more workers are ready.
# A worker that leaves connections waiting for 50 ms (`behind_after`) gets none while others are
# responsive: half of that is soon enough to act. "in_flight" has no default, since the right
# number depends on the app.
_TARGETS = {"cpu": 70.0, "lag": 0.025}

# A target that was not given, compared by identity: another NaN is an error.
_OF_METRIC = float("nan")


@dataclass(frozen=True, slots=True)
class Autoscale:
    """A rule for a role's number of workers, `min` to `max`, that keeps the load at `target`.

    `metric` is the load of a worker, as a mean over the ready workers:

        "cpu"        percent of one core; `target` is 70.0 unless given
        "lag"        seconds by which the event loop runs late; `target` is 0.025 unless given
        "in_flight"  requests begun and not done; give the `target`
        a function   takes a Snapshot of these workers and returns the load of one, a number
                     from 0 on in the unit of `target`, that halves when workers double

    Requests in flight are counted at one moment, so their number jumps; if it is small, "cpu" is
    the better metric. A function is called in the primary's event loop, again and again, so it
    must only calculate. The Snapshot's `total` is the whole cluster's.

    When the load was over the target for `up_after` seconds without a break, more workers are
    started, at most as many again. When fewer workers would have been well below the target for
    `down_after` seconds (`math.inf`: never), at most half of the workers stop; with "lag", which
    does not say how many could stop, one. Two decisions are at least `cooldown` seconds apart.
    """

    min: int
    max: int
    _: KW_ONLY
    metric: Metric = "cpu"
    target: float = _OF_METRIC
    up_after: float = 5.0
    # A start costs milliseconds, a missing worker costs requests: so the number goes down slowly.
    down_after: float = 60.0
    cooldown: float = 10.0

    def __post_init__(self) -> None:
        _check_count("min", self.min, 1)
        _check_count("max", self.max, self.min)
        _check_metric(self.metric)
        _set(self, "target", _target(self.metric, self.target))
        for name in ("up_after", "down_after", "cooldown"):
            _set(self, name, _seconds(name, getattr(self, name)))

    @property
    def metric_name(self) -> str:
        """The name of the metric in log lines."""
        metric = self.metric
        return metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))


# The only way for a frozen dataclass to set its own fields.
_set = object.__setattr__


def _check_count(name: str, value: object, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise ConfigError(f"autoscale {name} must be a whole number from {lowest}, not {value!r}")


def _check_metric(metric: object) -> None:
    names = get_args(NamedMetric)
    if metric in names:
        return
    if not callable(metric):
        raise ConfigError(
            f"autoscale metric must be {', '.join(names)} or a function, not {metric!r}"
        )
    if inspect.iscoroutinefunction(metric):
        raise ConfigError(f"autoscale metric must return its number at once, not {metric!r}")


def _target(metric: Metric, target: object) -> float:
    if target is _OF_METRIC:
        if not isinstance(metric, str) or metric not in _TARGETS:
            raise ConfigError(f"autoscale target must be given for the metric {metric!r}")
        return _TARGETS[metric]
    number = _number("target", target)
    if not 0 < number < math.inf:
        raise ConfigError(f"autoscale target must be more than 0 and finite, not {target!r}")
    return number


def _seconds(name: str, value: object) -> float:
    seconds = _number(name, value)
    if not seconds >= 0:
        raise ConfigError(f"autoscale {name} must be 0 seconds or more, not {value!r}")
    return seconds


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"autoscale {name} must be a number, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf
