"""What may be set of scaling by load."""

import math
from dataclasses import FrozenInstanceError
from typing import Any

import msgspec
import pytest

from aiocluster.config.autoscale import Autoscale
from aiocluster.errors import ConfigError


def queue_length(snapshot: object) -> float:
    return 3.0


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __call__(self, snapshot: object) -> float:
        return 3.0


async def coroutine(snapshot: object) -> float:
    return 3.0


def test_two_numbers_are_enough() -> None:
    """All else has a default that makes sense."""
    autoscale = Autoscale(1, 8)

    assert autoscale == Autoscale(
        min=1, max=8, metric="cpu", target=70.0, up_after=5.0, down_after=60.0, cooldown=10.0
    )


def test_the_target_is_the_metrics_own_unless_given() -> None:
    """Percent for the CPU, seconds for the lag."""
    assert Autoscale(1, 2, metric="lag").target == 0.025
    assert Autoscale(1, 2, metric="lag", target=1).target == 1.0
    assert Autoscale(1, 2, metric="in_flight", target=20).target == 20.0


@pytest.mark.parametrize("metric", ["in_flight", queue_length, Unhashable()])
def test_what_nobody_can_guess_must_be_given(metric: Any) -> None:
    """There is no target that fits every app."""
    with pytest.raises(ConfigError, match="autoscale target must be given for the metric"):
        Autoscale(1, 2, metric=metric)

    assert Autoscale(1, 2, metric=metric, target=2.0).target == 2.0


def test_the_metric_has_a_name() -> None:
    """For log lines: that of a function, if it has one."""
    unhashable = Unhashable()

    assert Autoscale(1, 2).metric_name == "cpu"
    assert Autoscale(1, 2, metric=queue_length, target=1.0).metric_name == "queue_length"
    assert Autoscale(1, 2, metric=unhashable, target=1.0).metric_name == repr(unhashable)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min": 0}, "min must be a whole number from 1, not 0"),
        ({"min": True}, "min must be a whole number from 1, not True"),
        ({"min": 1.5}, "min must be a whole number from 1, not 1.5"),
        ({"max": 1}, "max must be a whole number from 2, not 1"),
        ({"max": "8"}, "max must be a whole number from 2, not '8'"),
        ({"metric": "load"}, "metric must be cpu, lag, in_flight or a function, not 'load'"),
        ({"metric": None}, "metric must be cpu, lag, in_flight or a function, not None"),
        ({"metric": coroutine}, "metric must return its number at once, not <function coroutine"),
        ({"target": 0}, "target must be more than 0 and finite, not 0"),
        ({"target": -1.0}, "target must be more than 0 and finite, not -1.0"),
        ({"target": math.nan}, "target must be more than 0 and finite, not nan"),
        ({"target": math.inf}, "target must be more than 0 and finite, not inf"),
        ({"target": 10**400}, "target must be more than 0 and finite, not 1000"),
        ({"target": "70 %"}, "target must be a number, not '70 %'"),
        ({"target": True}, "target must be a number, not True"),
        ({"target": None}, "target must be a number, not None"),
        ({"up_after": -0.1}, "up_after must be 0 seconds or more, not -0.1"),
        ({"up_after": math.nan}, "up_after must be 0 seconds or more, not nan"),
        ({"down_after": "60"}, "down_after must be a number, not '60'"),
        ({"cooldown": -1}, "cooldown must be 0 seconds or more, not -1"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    """When it is made, with the name of the value."""
    with pytest.raises(ConfigError) as caught:
        Autoscale(**({"min": 2, "max": 8} | values))

    assert str(caught.value).startswith(f"autoscale {message}")


def test_never_is_a_time() -> None:
    """Workers may be told to come and not to go."""
    assert Autoscale(1, 2, down_after=math.inf).down_after == math.inf


def test_nobody_changes_it() -> None:
    """It was checked when it was made."""
    with pytest.raises(FrozenInstanceError):
        Autoscale(1, 2).max = 3  # type: ignore[misc]


def test_it_is_a_value_among_settings() -> None:
    """Taken as it is, or made from a table of a file, with the same checks."""
    autoscale = Autoscale(1, 4, metric=queue_length, target=1.0)

    assert msgspec.convert(autoscale, Autoscale | None) is autoscale
    assert msgspec.convert({"min": 1, "max": 4}, Autoscale) == Autoscale(1, 4)
    with pytest.raises(ConfigError, match="autoscale max"):
        msgspec.convert({"min": 5, "max": 4}, Autoscale)
