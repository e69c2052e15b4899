"""A role's number of workers follows its load."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest
from msgspec.structs import replace

from aiocluster.config.autoscale import Autoscale
from aiocluster.metrics.snapshot import Snapshot
from aiocluster.primary.scaling.autoscale_policy import AutoscalePolicy, Decision
from aiocluster.primary.scaling.autoscaler import Autoscaler
from tests.support.snapshots import snapshot_of, worker


class FakeStaff:
    """As many workers as are asked for, all of which serve at once."""

    def __init__(self, count: int) -> None:
        self.places = count
        self.reasons: list[str] = []

    is_changing = False

    @property
    def ready(self) -> int:
        return self.places

    def obey(self, decision: Decision) -> None:
        self.places = decision.count
        self.reasons.append(decision.reason)


async def follow(
    staff: FakeStaff, metric: Callable[[Snapshot], Any], looks: int, missed: int = 0
) -> None:
    """Look so many times, a second apart; so many looks are `missed` before the second one."""
    seconds = iter(range(looks))
    config = Autoscale(1, 8, metric=metric, target=10.0, up_after=1.0, down_after=2.0, cooldown=0.0)
    scaler = AutoscalePolicy(config, "web", settle=0.0)
    autoscaler = Autoscaler(scaler, staff, lambda: float(next(seconds)))
    await autoscaler.follow(of_all(staff, looks, missed, before=1))


async def of_all(
    staff: FakeStaff, looks: int, missed: int = 0, before: int = -1
) -> AsyncIterator[Snapshot]:
    """Each look at all workers; so many were `missed` `before` one of them."""
    for look in range(looks):
        snapshot = snapshot_of(worker(number) for number in range(staff.places))
        yield replace(snapshot, missed=missed if look == before else 0)


def answers(values: Iterable[Any]) -> Callable[[Snapshot], Any]:
    left = iter(values)

    def queue_length(snapshot: Snapshot) -> Any:
        value = next(left)
        if isinstance(value, Exception):
            raise value
        return value

    return queue_length


async def test_what_is_decided_is_done() -> None:
    """Up and down, each with its reason, until there are no more snapshots."""
    staff = FakeStaff(2)

    await follow(staff, answers([14, 14, 1, 1, 1]), 5)

    assert staff.reasons == [
        "queue_length 14 over 10 for 1 s: 2 -> 3 workers",
        "queue_length 1 at most, under 10 for 2 s: 3 -> 2 workers",
    ]


@pytest.mark.parametrize(("missed", "decided"), [(0, 1), (1, 1), (2, 0), (3600, 0)])
async def test_a_pause_decides_nothing(missed: int, decided: int) -> None:
    """Looks that were left out: nobody knows how it was meanwhile."""
    staff = FakeStaff(2)

    await follow(staff, answers([14, 14]), 2, missed)

    assert len(staff.reasons) == decided


async def test_while_the_number_changes_nothing_is_decided() -> None:
    """What would be carried out later is decided later."""
    staff = FakeStaff(2)
    staff.is_changing = True

    await follow(staff, answers([14, 14, 14]), 3)

    assert staff.reasons == []


async def test_a_metric_that_fails_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not with every snapshot; again once it is another failure, or has worked meanwhile."""
    staff = FakeStaff(2)

    await follow(staff, answers([-1, -1, -1, None, None, 5, None]), 7)

    told = [record.message.partition(", not ")[2] for record in caplog.records]
    assert told == ["-1", "None", "None"]
    assert {record.levelname for record in caplog.records} == {"ERROR"}


async def test_a_metric_that_raises_shows_where(caplog: pytest.LogCaptureFixture) -> None:
    """And what comes after it is heeded."""
    staff = FakeStaff(2)

    await follow(staff, answers([KeyError("depth"), 14, 14]), 3)

    assert "in queue_length" in caplog.text
    assert "KeyError: 'depth'" in caplog.text
    assert staff.places == 3
