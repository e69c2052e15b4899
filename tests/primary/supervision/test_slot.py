"""One place for a worker, with a crew and workers that the test plays, and no real waiting."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from aiocluster.config.settings import Restart
from aiocluster.errors import BootError, WorkerGone
from aiocluster.ipc.handover import SlotState
from aiocluster.ipc.messages import Drain
from aiocluster.primary.processes.generations import Generation
from aiocluster.primary.supervision.slot import Slot
from aiocluster.primary.workers.exits import CRASH_WEIGHT, KILLED_WEIGHT
from aiocluster.primary.workers.handle import WorkerHandle
from tests.support.clock import Clock
from tests.support.waiting import soon, turns, turns_until
from tests.support.workers import FakeOwner, FakeSpawner, FakeWorker, let_go, play_worker


class FakeCrew:
    """Hires workers that the test plays; its delays are the test's."""

    def __init__(self) -> None:
        self.owner = FakeOwner()
        self.hired: asyncio.Queue[tuple[WorkerHandle, FakeWorker]] = asyncio.Queue()
        self.all: list[tuple[WorkerHandle, FakeWorker]] = []
        self.refusals = 0
        self.admitted: list[WorkerHandle] = []
        self.delays: list[float] = []
        self.weights: list[float] = []
        self.start_over = asyncio.Event()
        self.turn = asyncio.Semaphore(1000)
        self._ends: list[asyncio.Task[None]] = []

    def admit(self, worker: WorkerHandle, before: WorkerHandle | None) -> None:
        """See Crew."""
        self.admitted.append(worker)

    async def spawn(
        self, slot: Slot, generation: Generation, restarts: int, *, held: bool = False
    ) -> WorkerHandle:
        """See Crew."""
        if self.refusals:
            self.refusals -= 1
            raise WorkerGone("cannot fork: Cannot allocate memory")
        handle, worker = await play_worker(
            self.owner, len(self.all) + 1, slot.number, generation.number, restarts
        )
        handle.announced()
        self.all.append((handle, worker))
        self._ends.append(asyncio.create_task(_see_off(handle, worker)))
        self.hired.put_nowait((handle, worker))
        return handle

    def delay_after_failure(self, weight: float) -> float:
        """See Crew."""
        self.weights.append(weight)
        return self.delays.pop(0) if self.delays else 0.0

    def why_not_ready(self, worker: WorkerHandle) -> BootError:
        """See Crew."""
        return BootError(f"{worker} did not come up")

    async def take_turn(self) -> Callable[[], None]:
        """See Crew."""
        await self.turn.acquire()
        return self.turn.release

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
    await handle.flush_channel()
    handle.ended(status)


class Stage:
    """A slot that is being kept."""

    def __init__(self, crew: FakeCrew, restart: Restart, state: SlotState | None) -> None:
        self.crew = crew
        self.slept: list[float] = []
        self.sleeping = asyncio.Event()
        self.wake = asyncio.Event()
        self.wake.set()
        self.generation = Generation(1, FakeSpawner())
        self.slot = Slot(5, {"ROLE": "x"}, self.generation, crew, restart, self._sleep)
        if state is not None:
            self.slot.adopt(state, None)
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

    async def make(
        restart: Restart = "always", refusals: int = 0, state: SlotState | None = None
    ) -> Stage:
        crew.refusals = refusals
        stages.append(Stage(crew, restart, state))
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

    assert stage.slept == [pytest.approx(7.5, abs=1.0)]
    assert "slot 5: too many failures lately, next start in 7.5 s" in caplog.text


async def test_a_fork_that_fails_is_tried_again(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """No memory now may be memory in half a second; it is logged once, not with each try."""
    stage = await make_stage()
    _, worker = await stage.crew.next_ready()
    stage.crew.refusals = 3
    worker.exit(1)
    await stage.crew.next()

    assert stage.slept == [0.5] * 3
    line = "slot 5: cannot fork: Cannot allocate memory; the fork is tried each"
    assert caplog.text.count(line) == 1


async def test_a_first_fork_that_fails_for_some_time_is_known_to_whoever_waits(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever started the slot says why, once; the slot goes on trying."""
    stage = await make_stage(refusals=4)
    await stage.crew.next()
    assert not stage.slot.is_refused.is_set()

    other = await make_stage(refusals=5)
    await stage.crew.next()
    assert other.slot.is_refused.is_set()
    assert caplog.text == ""


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
        ("kill(KILL)", 0.0),
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


async def test_a_start_waits_for_its_turn_and_ends_it_when_settled(make_stage: MakeStage) -> None:
    """While a role is degraded, one at a time."""
    stage = await make_stage()
    _, worker = await stage.crew.next_ready()
    stage.crew.turn = asyncio.Semaphore(0)
    worker.exit(1)
    await turns(20)
    assert stage.crew.hired.empty()

    stage.crew.turn.release()
    _, worker = await stage.crew.next()
    assert stage.crew.turn.locked()
    worker.boot()
    await turns_until(lambda: not stage.crew.turn.locked())


async def test_a_renewal_may_be_quicker_than_the_first_start(make_stage: MakeStage) -> None:
    """A slot whose own code cannot be forked is not left to two workers."""
    stage = await make_stage(refusals=1)
    stage.wake.clear()
    await soon(stage.sleeping.wait())
    renewing = asyncio.create_task(stage.slot.renew(Generation(2, FakeSpawner()), "reload"))
    successor, worker = await stage.crew.next()
    worker.boot()
    await soon(renewing)
    assert await soon(stage.slot.first) is successor

    stage.wake.set()
    await turns(20)
    assert stage.crew.hired.empty()
    assert stage.slot.holds(successor)


async def test_a_start_that_fails_goes_on_with_the_code_that_serves_then(
    make_stage: MakeStage,
) -> None:
    """What a reload gave up meanwhile is not forked from for ever."""
    stage = await make_stage(refusals=1)
    stage.wake.clear()
    await soon(stage.sleeping.wait())
    stage.slot.generation = Generation(7, FakeSpawner())
    stage.wake.set()
    assert (await stage.crew.next())[0].generation == 7


# ---- from one program to the next


async def test_a_wait_goes_on_in_the_next_program(make_stage: MakeStage) -> None:
    """A crash loop is not started anew by each upgrade."""
    stage = await make_stage()
    stage.crew.delays = [600.0]
    stage.wake.clear()
    _, worker = await stage.crew.next_ready()
    worker.exit(1)
    await soon(stage.sleeping.wait())
    state = stage.slot.state()
    stage.keeping.cancel()

    heir = await make_stage(state=state)
    heir.wake.clear()
    await soon(heir.sleeping.wait())
    assert heir.slept == [pytest.approx(600.0, abs=60.0)]
    assert stage.crew.hired.empty()
    assert heir.slot.restarts == 1


# ---- renewal


async def test_the_old_one_goes_only_when_the_new_one_is_ready(make_stage: MakeStage) -> None:
    """The slot is never empty; idle connections end in their own time."""
    stage = await make_stage()
    old, old_worker = await stage.crew.next_ready()

    renewing = asyncio.create_task(stage.slot.replace(old, "max_requests", lambda: True))
    new, new_worker = await stage.crew.next()
    await turns(20)
    assert old_worker.said_to_it.empty()
    new_worker.boot()

    assert await old_worker.hear() == Drain(30.0, moving=False)
    await soon(renewing)
    assert new.was_ready
    assert stage.slot.current is new
    assert stage.slot.restarts == new.restarts == 1


async def test_one_that_is_not_due_any_more_stays(make_stage: MakeStage) -> None:
    """What was found may be long ago: it had to wait for another renewal of the slot."""
    stage = await make_stage()
    old, _ = await stage.crew.next_ready()
    await soon(stage.slot.first)

    await soon(stage.slot.replace(old, "memory_limit", lambda: False))

    assert stage.slot.current is old
    assert not old.is_leaving


async def test_the_end_of_the_old_one_starts_nobody(make_stage: MakeStage) -> None:
    """Its successor is there already, and holds the slot from then on."""
    stage = await make_stage()
    old, old_worker = await stage.crew.next_ready()
    renewing = asyncio.create_task(stage.slot.replace(old, "max_requests", lambda: True))
    new, new_worker = await stage.crew.next_ready()
    await soon(renewing)
    assert not stage.slot.holds(old)
    await soon(stage.slot.replace(old, "max_requests", lambda: True))  # it is gone: nothing

    old_worker.exit(0)
    exited = await soon(asyncio.shield(old.exited))
    await turns(20)

    assert exited.reason == "max_requests"
    assert stage.crew.hired.empty()
    assert stage.slot.holds(new)
    new_worker.exit(1)
    await stage.crew.next()


async def test_the_new_one_may_die_while_the_old_one_still_drains(make_stage: MakeStage) -> None:
    """It is replaced at once, not when the old one has ended."""
    stage = await make_stage()
    old, _ = await stage.crew.next_ready()
    renewing = asyncio.create_task(stage.slot.replace(old, "reload", lambda: True))
    _, new_worker = await stage.crew.next_ready()
    await soon(renewing)

    new_worker.exit(1)

    await stage.crew.next()
    assert not old.exited.done()


@pytest.mark.parametrize("hold", [0.0, 1000.0])
async def test_a_successor_that_fails_changes_nothing(make_stage: MakeStage, hold: float) -> None:
    """One that does not boot; with a hold, one that dies soon after it was ready."""
    stage = await make_stage()
    old, old_worker = await stage.crew.next_ready()
    new_generation = Generation(2, FakeSpawner())
    renewing = asyncio.create_task(stage.slot.renew(new_generation, "reload", hold))
    new, failing = await stage.crew.next()
    if hold:
        failing.boot()
        await turns_until(lambda: new.was_ready)
        failing.exit(1)
    else:
        failing.fail_to_boot("ValueError: no")

    with pytest.raises(BootError, match=r"worker 2 .* did not come up"):
        await soon(renewing)
    await turns(20)
    assert old_worker.said_to_it.empty()
    assert stage.slot.holds(old)
    assert stage.slot.generation is stage.generation
    assert stage.crew.hired.empty()


@pytest.mark.parametrize("how", ["drain", "nonsense"])
async def test_a_successor_that_leaves_while_it_must_last_has_failed(
    make_stage: MakeStage, how: str
) -> None:
    """Though it still lives when its time is over: the old one would leave nobody behind."""
    stage = await make_stage()
    old, old_worker = await stage.crew.next_ready()
    renewing = asyncio.create_task(
        stage.slot.renew(Generation(2, FakeSpawner()), "reload", hold=0.05)
    )
    new, leaving = await stage.crew.next_ready()
    if how == "drain":
        new.drain()
    else:
        leaving.channel.abort()
        await turns_until(lambda: not new.is_connected)
    done, _ = await asyncio.wait({renewing}, timeout=0.2)
    assert not done
    assert old_worker.said_to_it.empty()
    leaving.exit(0)

    with pytest.raises(BootError, match=r"worker 2 .* did not come up"):
        await soon(renewing)
    assert stage.slot.holds(old)


@pytest.mark.asyncio(loop_factories=["asyncio"])  # the test moves its clock
async def test_a_pause_of_the_program_is_no_time_in_which_a_successor_lasts(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must run for as long as it is held; here it dies after the pause."""
    clock, stage = Clock(monkeypatch), await make_stage()
    old, old_worker = await stage.crew.next_ready()
    renewing = asyncio.create_task(stage.slot.renew(Generation(2, FakeSpawner()), "reload", 100.0))
    _, new_worker = await stage.crew.next_ready()
    await clock.run(10.0)
    clock.pause(3600.0)
    await clock.run(50.0)
    assert old_worker.said_to_it.empty()
    new_worker.exit(1)

    with pytest.raises(BootError, match=r"worker 2 .* did not come up"):
        await soon(renewing)
    assert stage.slot.holds(old)


async def test_an_old_one_that_dies_while_its_successor_starts_is_replaced_at_once(
    make_stage: MakeStage,
) -> None:
    """By one of its own generation, which goes again when the successor is ready."""
    stage = await make_stage()
    _, old_worker = await stage.crew.next_ready()
    new_generation = Generation(2, FakeSpawner())
    renewing = asyncio.create_task(stage.slot.renew(new_generation, "reload"))
    new, new_worker = await stage.crew.next()
    old_worker.exit(1)

    stopgap, stopgap_worker = await stage.crew.next_ready()
    assert stopgap.generation == 1
    new_worker.boot()
    await soon(renewing)

    assert await stopgap_worker.hear() == Drain(30.0, moving=False)
    assert stage.slot.holds(new)
    assert stage.slot.generation is new_generation


async def test_a_successor_ends_the_wait_of_a_slot_that_keeps_failing(
    make_stage: MakeStage,
) -> None:
    """The code that is being put in place may be the one that mends it."""
    stage = await make_stage()
    stage.crew.delays = [1000.0]
    stage.wake.clear()
    _, old_worker = await stage.crew.next_ready()
    renewing = asyncio.create_task(stage.slot.renew(Generation(2, FakeSpawner()), "reload"))
    _, new_worker = await stage.crew.next()
    old_worker.exit(1)
    await soon(stage.sleeping.wait())

    new_worker.boot()
    await soon(renewing)
    await turns(20)

    assert stage.crew.hired.empty()
    new_worker.exit(1)
    await stage.crew.next()


async def test_a_renewal_that_is_given_up_drains_its_worker(make_stage: MakeStage) -> None:
    """Nobody stays who has no place."""
    stage = await make_stage()
    old, _ = await stage.crew.next_ready()
    renewing = asyncio.create_task(stage.slot.renew(stage.generation, "reload", 1000.0))
    new, new_worker = await stage.crew.next_ready()
    await turns()
    renewing.cancel()

    assert isinstance(await new_worker.hear(), Drain)
    assert stage.slot.holds(old)
    assert new.is_leaving


async def test_two_renewals_come_one_after_the_other(make_stage: MakeStage) -> None:
    """A worker that is due while its slot is being reloaded is replaced by the reload."""
    stage = await make_stage()
    old, _ = await stage.crew.next_ready()
    reloading = asyncio.create_task(stage.slot.renew(stage.generation, "reload"))
    recycling = asyncio.create_task(stage.slot.replace(old, "max_requests", lambda: True))
    await stage.crew.next_ready()

    await soon(asyncio.gather(reloading, recycling))

    assert stage.crew.hired.empty()


async def test_a_slot_that_is_never_refilled_has_no_successors(make_stage: MakeStage) -> None:
    """With restart="never" a worker that is due just ends."""
    stage = await make_stage("never")
    handle, _ = await stage.crew.next_ready()

    assert not stage.slot.holds(handle)


async def test_a_slot_that_closes_meanwhile_keeps_no_successor(make_stage: MakeStage) -> None:
    """With restart="never" the death of a worker ends its slot, also in a reload."""
    stage = await make_stage("never")
    _, old_worker = await stage.crew.next_ready()
    renewing = asyncio.create_task(stage.slot.renew(stage.generation, "reload"))
    _, new_worker = await stage.crew.next()
    old_worker.exit(1)
    await soon(stage.keeping)
    new_worker.boot()

    await soon(renewing)
    assert isinstance(await new_worker.hear(), Drain)


async def test_a_slot_that_is_kept_no_more_leaves_no_task(make_stage: MakeStage) -> None:
    """At a stop nothing goes on waiting for a worker to be due."""
    before = asyncio.all_tasks()
    stage = await make_stage()
    await stage.crew.next_ready()
    stage.keeping.cancel()
    await asyncio.wait({stage.keeping})
    await turns()

    assert asyncio.all_tasks() - before == {*stage.crew._ends}


async def test_a_job_that_returns_at_once_is_called_more_slowly_and_the_log_says_why(
    make_stage: MakeStage, caplog: pytest.LogCaptureFixture
) -> None:
    """It never spins: each return counts as a crash does, and the line names the ways out."""
    stage = await make_stage()
    stage.crew.delays = [0.0, 1.5]
    for _ in range(2):
        handle, worker = await stage.crew.next_ready()
        handle.begin_drain("finished")
        worker.exit(0)
    await stage.crew.next_ready()

    assert stage.crew.weights == [CRASH_WEIGHT, CRASH_WEIGHT]
    assert stage.slept == [pytest.approx(1.5, abs=0.1)]
    assert caplog.text.count("its job returns as soon as it has begun") == 1
    assert "restart='on_failure'" in caplog.text
