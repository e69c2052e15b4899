"""A new generation on probation; its workers die when the test says so."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiocluster.errors import BootError
from aiocluster.events import WorkerExited, WorkerListening
from aiocluster.ipc.messages import BootFailed
from aiocluster.primary.event_bus import EventBus
from aiocluster.primary.lifecycle.stability import StabilityCheck
from aiocluster.primary.workers.exit_log import ExitLog
from aiocluster.primary.workers.handle import WorkerHandle
from tests.support.clock import Clock
from tests.support.waiting import soon, turns
from tests.support.workers import FakeOwner, FakeWorker, let_go, play_worker

# The tests move its clock.
pytestmark = pytest.mark.asyncio(loop_factories=["asyncio"])

FOR_EVER = 1e6

NEW = 2

Meet = Callable[[int], Awaitable[WorkerHandle]]


@pytest.fixture
async def meet() -> AsyncIterator[Meet]:
    """Return what makes a worker of a generation."""
    owner, pairs = FakeOwner(), list[tuple[WorkerHandle, FakeWorker]]()

    async def worker_of(generation: int) -> WorkerHandle:
        pairs.append(await play_worker(owner, len(pairs) + 1, generation=generation))
        return pairs[-1][0]

    yield worker_of
    for pair in pairs:
        let_go(*pair)
    await turns()


class Stage:
    """A probation of generation 2: each must last for a hundred seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.bus = EventBus()
        self.stability_check = StabilityCheck(NEW, 100.0, self.bus, ExitLog(60.0))

    def listen(self, worker: WorkerHandle) -> None:
        worker.was_ready = True
        self.bus.publish(WorkerListening(worker, ()))

    def die(self, worker: WorkerHandle, *, voluntary: bool = False) -> None:
        exited = WorkerExited(worker, 1, None, voluntary, "crash")
        worker.exited.set_result(exited)
        self.bus.publish(exited)


@pytest.fixture
async def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(Clock(monkeypatch))


async def test_one_that_dies_too_soon_fails_it(stage: Stage, meet: Meet) -> None:
    """Whoever waits hears why: for the failure, and for the time to pass."""
    worker = await meet(NEW)
    with stage.stability_check as stability_check:
        stage.listen(worker)
        await stage.clock.run(80.0)
        waiting = [asyncio.create_task(stability_check.failure()) for _ in range(2)]
        lasting = asyncio.create_task(stability_check.last(FOR_EVER))
        await turns()
        stage.die(worker)

        for task in (*waiting, lasting):
            with pytest.raises(BootError, match=r"exited with code 1 \(crash\) soon after its"):
                await soon(task)


async def test_one_that_dies_before_it_is_ready_fails_it(stage: Stage, meet: Meet) -> None:
    """With the cause that it gave; asked late, it is still told."""
    worker = await meet(NEW)
    worker.boot_failure = BootFailed("ValueError: no database", "Traceback …")
    with stage.stability_check as stability_check:
        stage.die(worker)

        with pytest.raises(BootError, match="ValueError: no database"):
            await soon(stability_check.last(0.0))


async def test_only_the_first_failure_counts(
    stage: Stage, meet: Meet, caplog: pytest.LogCaptureFixture
) -> None:
    """The others mostly die of the same."""
    first, second = await meet(NEW), await meet(NEW)
    first.boot_failure, second.boot_failure = BootFailed("first", ""), BootFailed("second", "")
    with stage.stability_check as stability_check:
        stage.die(first)
        stage.die(second)

        with pytest.raises(BootError, match="first"):
            await soon(stability_check.failure())
    assert caplog.text == ""  # nor is the second an error


@pytest.mark.parametrize(
    ("generation", "seconds", "voluntary"),
    [
        (NEW - 1, 0.0, False),  # not on probation
        (NEW, 101.0, False),  # it has lasted
        (NEW, 0.0, True),  # somebody sent it away
    ],
)
async def test_other_deaths_do_not_count(
    stage: Stage, meet: Meet, generation: int, seconds: float, voluntary: bool
) -> None:
    """They say nothing of the new code."""
    worker = await meet(generation)
    with stage.stability_check as stability_check:
        stage.listen(worker)
        await stage.clock.run(seconds)
        stage.die(worker, voluntary=voluntary)

        await soon(stability_check.last(0.0))


async def test_the_time_of_a_pause_does_not_count(stage: Stage, meet: Meet) -> None:
    """A program that was stopped for an hour has shown nothing by that."""
    worker = await meet(NEW)
    with stage.stability_check as stability_check:
        stage.listen(worker)
        lasting = asyncio.create_task(stability_check.last(stability_check.seconds_left()))
        await stage.clock.run(10.0)
        stage.clock.pause(3600.0)
        await turns()
        assert stability_check.seconds_left() > 60.0
        await stage.clock.run(50.0)
        stage.die(worker)

        with pytest.raises(BootError, match="soon after its"):
            await soon(lasting)


async def test_the_youngest_is_waited_for(stage: Stage, meet: Meet) -> None:
    """It is the last that has lasted; nobody waits for one that is gone."""
    first, second, gone = [await meet(NEW) for _ in range(3)]
    with stage.stability_check as stability_check:
        assert stability_check.seconds_left() == 0.0
        stage.listen(first)
        await stage.clock.run(50.0)
        stage.listen(second)
        await stage.clock.run(20.0)
        stage.listen(gone)
        stage.die(gone, voluntary=True)

        assert 60.0 < stability_check.seconds_left() <= 80.0
        await stage.clock.run(81.0)
        assert stability_check.seconds_left() == 0.0


async def test_who_gives_up_waiting_takes_it_from_nobody(stage: Stage, meet: Meet) -> None:
    """A batch that is through waits no more; the next one does."""
    worker = await meet(NEW)
    with stage.stability_check as stability_check:
        given_up = asyncio.create_task(stability_check.failure())
        await turns()
        given_up.cancel()
        await turns()
        stage.die(worker)

        with pytest.raises(BootError):
            await soon(stability_check.failure())


async def test_afterwards_a_death_is_no_failure(stage: Stage, meet: Meet) -> None:
    """The generation serves, and its workers are replaced as usual."""
    worker = await meet(NEW)
    with stage.stability_check as stability_check:
        pass
    stage.die(worker)

    await soon(stability_check.last(0.0))
