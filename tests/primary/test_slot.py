"""One place for a worker, with a crew and workers that the test plays, and no real waiting."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiocluster.config.settings import Restart
from aiocluster.errors import WorkerGone
from aiocluster.ipc.messages import Drain
from aiocluster.primary.handle import WorkerHandle
from aiocluster.primary.restarts import CRASH_WEIGHT, KILLED_WEIGHT
from aiocluster.primary.slot import Slot
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeOwner, FakeWorker, let_go, play_worker


class FakeCrew:
    """Hires workers that the test plays; its delays are the test's."""

    def __init__(self) -> None:
        self.owner = FakeOwner()
        self.hired: asyncio.Queue[tuple[WorkerHandle, FakeWorker]] = asyncio.Queue()
        self.all: list[tuple[WorkerHandle, FakeWorker]] = []
        self.refusals = 0
        self.delays: list[float] = []
        self.weights: list[float] = []
        self.start_over = asyncio.Event()
        self._ends: list[asyncio.Task[None]] = []

    async def hire(self, slot: Slot) -> WorkerHandle:
        """See Crew."""
        if self.refusals:
            self.refusals -= 1
            raise WorkerGone("cannot fork: Cannot allocate memory")
        handle, worker = await play_worker(self.owner, len(self.all) + 1, slot.number)
        handle.announced()
        self.all.append((handle, worker))
        self._ends.append(asyncio.create_task(_see_off(handle, worker)))
        self.hired.put_nowait((handle, worker))
        return handle

    def delay_after_failure(self, weight: float) -> float:
        """See Crew."""
        self.weights.append(weight)
        return self.delays.pop(0) if self.delays else 0.0

    async def first_start_over(self) -> None:
        """See Crew."""
        await self.start_over.wait()

    async def next(self) -> tuple[WorkerHandle, FakeWorker]:
        """Return the next worker hired."""
        return await soon(self.hired.get())

    async def next_ready(self) -> tuple[WorkerHandle, FakeWorker]:
        """Return the next worker hired, once it is ready."""
        handle, worker = await self.next()
        worker.boot()
        await turns_until(lambda: handle.was_ready)
        return handle, worker

    async def close(self) -> None:
        for handle, worker in self.all:
            worker.exit(0)
            let_go(handle, worker)
        await asyncio.gather(*self._ends)


async def _see_off(handle: WorkerHandle, worker: FakeWorker) -> None:
    status = await worker.process.wait()
    await handle.read_last_words()
    handle.ended(status)


class Stage:
    """A slot that is being kept."""

    def __init__(self, crew: FakeCrew, restart: Restart) -> None:
        self.crew = crew
        self.slept: list[float] = []
        self.sleeping = asyncio.Event()
        self.wake = asyncio.Event()
        self.wake.set()
        self.slot = Slot(5, {"ROLE": "x"}, crew, restart, self._sleep)
        self.keeping = asyncio.create_task(self.slot.keep())

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.sleeping.set()
        await self.wake.wait()


MakeStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
async def make_stage() -> AsyncIterator[MakeStage]:
    crew = FakeCrew()
    stages: list[Stage] = []

    async def make(restart: Restart = "always", refusals: int = 0) -> Stage:
        crew.refusals = refusals
        stages.append(Stage(crew, restart))
        return stages[-1]

    yield make
    for stage in stages:
        stage.keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stage.keeping
    await crew.close()
    await turns()


async def test_the_first_worker_is_told(make_stage: MakeStage) -> None:
    """Who opened the slot learns of its worker as soon as it is forked."""
    stage = await make_stage()

    assert await soon(stage.slot.first) is (await stage.crew.next())[0]


async def test_a_worker_that_died_is_replaced_at_once(make_stage: MakeStage) -> None:
    """As often as it dies, without a delay while failures are few; restarts are counted."""
    stage = await make_stage()
    for _ in range(3):
        _, worker = await stage.crew.next_ready()
        worker.exit(1)
    await stage.crew.next()

    assert stage.slot.restarts == 3
    assert stage.slept == []


async def test_after_too_many_failures_the_next_start_waits(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait is what the crew's policy said, it is logged, and no worker starts meanwhile."""
    stage = await make_stage()
    stage.crew.delays = [0.0, 7.5]
    stage.wake.clear()
    for _ in range(2):
        _, worker = await stage.crew.next_ready()
        worker.exit(1)
    await soon(stage.sleeping.wait())
    assert stage.crew.hired.empty()

    stage.wake.set()
    await stage.crew.next()

    assert stage.slept == [7.5]
    assert "slot 5: too many failures lately, next start in 7.5 s" in caplog.text


async def test_a_fork_that_fails_is_tried_again(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """No memory now may be memory in half a second; each try is logged."""
    stage = await make_stage(refusals=2)

    await stage.crew.next()

    assert stage.slept == [0.5, 0.5]
    assert caplog.text.count("slot 5: cannot fork: Cannot allocate memory; next try in") == 2


async def test_one_that_cannot_boot_waits_for_the_first_start_to_be_over(
    make_stage: MakeStage,
) -> None:
    """While it is open whether anything works at all, nothing is tried twice."""
    stage = await make_stage()
    _, worker = await stage.crew.next()
    worker.fail_to_boot("ValueError: no")
    handle = stage.crew.all[0][0]
    await soon(asyncio.shield(handle.exited))
    await turns(20)
    assert stage.crew.hired.empty()

    stage.crew.start_over.set()

    await stage.crew.next()


@pytest.mark.parametrize(
    ("restart", "end", "is_replaced"),
    [
        ("always", "code 0", True),
        ("always", "code 1", True),
        ("always", "drain", True),
        ("always", "signal", True),
        ("on_failure", "code 0", False),
        ("on_failure", "code 1", True),
        ("on_failure", "drain", False),
        ("on_failure", "signal", True),
        ("never", "code 0", False),
        ("never", "code 1", False),
        ("never", "drain", False),
        ("never", "signal", False),
    ],
)
async def test_who_is_replaced_is_the_users_choice(
    make_stage: MakeStage, restart: Restart, end: str, is_replaced: bool
) -> None:
    """always; on_failure: not what went by itself in peace or was told to; never."""
    stage = await make_stage(restart)
    handle, worker = await stage.crew.next_ready()
    match end.split():
        case ["drain"]:
            handle.drain()
            worker.exit(0)
        case ["signal"]:
            worker.die_of(signal.SIGSEGV)
        case [_, code]:
            worker.exit(int(code))

    if is_replaced:
        await stage.crew.next()
    else:
        await soon(stage.keeping)
        assert stage.crew.hired.empty()


@pytest.mark.parametrize(
    ("end", "weight"),
    [
        ("crash", CRASH_WEIGHT),
        ("SIGSEGV", CRASH_WEIGHT),
        ("SIGKILL", KILLED_WEIGHT),
        ("SIGTERM", KILLED_WEIGHT),
        ("SIGKILL before it was ready", CRASH_WEIGHT),
        ("kill(KILL)", KILLED_WEIGHT),
        ("drain", 0.25),
        ("max_requests", 0.0),
    ],
)
async def test_an_exit_weighs_what_it_says_against_the_code(
    make_stage: MakeStage, end: str, weight: float
) -> None:
    """A crash counts one, a kill from outside a quarter, what was asked for nothing."""
    stage = await make_stage()
    stage.crew.start_over.set()
    if end.endswith("before it was ready"):
        handle, worker = await stage.crew.next()
    else:
        handle, worker = await stage.crew.next_ready()
    match end.split()[0]:
        case "crash":
            worker.exit(1)
        case "kill(KILL)":
            handle.kill(signal.SIGKILL)
        case "drain" | "max_requests":
            handle.begin_drain(end)
            worker.exit(0)
        case name:
            worker.die_of(signal.Signals[name])
    await stage.crew.next()

    assert stage.crew.weights == [weight]


async def test_one_that_is_due_goes_only_when_the_new_one_is_ready(make_stage: MakeStage) -> None:
    """At max_requests the slot is never empty; idle connections end in their own time."""
    stage = await make_stage()
    old, old_worker = await stage.crew.next_ready()

    assert stage.slot.succeed(old)
    new, new_worker = await stage.crew.next()
    await turns(20)
    assert old_worker.said_to_it.empty()
    new_worker.boot()

    assert await old_worker.hear() == Drain(30.0, at_once=False)
    assert new.was_ready
    assert stage.slot.restarts == 1


async def test_the_end_of_the_old_one_starts_nobody(make_stage: MakeStage) -> None:
    """Its successor is there already, and holds the slot from then on."""
    stage = await make_stage()
    old, old_worker = await stage.crew.next_ready()
    stage.slot.succeed(old)
    new, _ = await stage.crew.next_ready()
    await old_worker.hear()
    assert not stage.slot.succeed(old)

    old_worker.exit(0)
    exited = await soon(asyncio.shield(old.exited))
    await turns(20)

    assert exited.reason == "max_requests"
    assert stage.crew.hired.empty()
    assert stage.slot.succeed(new)
    await stage.crew.next()


async def test_a_successor_that_cannot_boot_leaves_the_old_one_serving(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """The old one goes on, the failure counts, and the next try waits as the policy says."""
    stage = await make_stage()
    old, old_worker = await stage.crew.next_ready()
    stage.crew.delays = [2.0]
    stage.slot.succeed(old)
    _, failing = await stage.crew.next()
    failing.fail_to_boot("ValueError: no")
    await stage.crew.next_ready()

    assert await old_worker.hear() == Drain(30.0, at_once=False)
    assert stage.slept == [2.0]
    assert "could not replace worker 1" in caplog.text


async def test_an_old_one_that_dies_while_its_successor_starts_is_not_replaced_twice(
    make_stage: MakeStage,
) -> None:
    """The successor is its replacement."""
    stage = await make_stage()
    old, old_worker = await stage.crew.next_ready()
    stage.slot.succeed(old)
    _, new_worker = await stage.crew.next()
    old_worker.exit(1)
    await soon(asyncio.shield(old.exited))
    new_worker.boot()
    await turns_until(lambda: stage.slot.restarts == 1)
    await turns(20)

    assert stage.crew.hired.empty()


async def test_a_slot_that_is_never_refilled_has_no_successors(make_stage: MakeStage) -> None:
    """With restart="never" a worker that is due just ends."""
    stage = await make_stage("never")
    handle, _ = await stage.crew.next_ready()

    assert not stage.slot.succeed(handle)


async def test_a_slot_that_is_kept_no_more_leaves_no_task(make_stage: MakeStage) -> None:
    """At a stop nothing goes on waiting for a worker to be due."""
    before = asyncio.all_tasks()
    stage = await make_stage()
    await stage.crew.next_ready()
    stage.keeping.cancel()
    await asyncio.wait({stage.keeping})
    await turns()

    assert asyncio.all_tasks() - before == {*stage.crew._ends}
