"""Processes. Their zygote is played by the test; the processes are real, and short."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator

import pytest

from aiocluster.errors import BootError, WorkerGone
from aiocluster.ipc.handover import GenerationState, ZygoteState
from aiocluster.ipc.messages import (
    Exited,
    Fork,
    ForkFailed,
    Prepared,
    PrepareFailed,
    Watch,
)
from aiocluster.launch.interpreter import CannotStart, StartedZygote
from aiocluster.primary.processes.exit_status import ExitStatus
from aiocluster.primary.processes.process import WorkerProcess
from aiocluster.primary.processes.spawner import ZygoteSpawner
from tests.support.connections import open_fds
from tests.support.processes import is_reaped, reap, start_process
from tests.support.waiting import readable, soon, turns, turns_until
from tests.support.zygotes import FakeZygote

ORDER = Fork(7, 0, "web", 1, 0, [], {"ROLE": "x"})


class Starter:
    """Starts fake zygotes."""

    def __init__(self) -> None:
        self.started: asyncio.Queue[FakeZygote] = asyncio.Queue()
        self.all: list[FakeZygote] = []
        self.failures = 0
        self.refusal: CannotStart | None = None

    async def __call__(self) -> StartedZygote:
        if self.failures:
            self.failures -= 1
            raise OSError("no more processes")
        if self.refusal is not None:
            raise self.refusal
        zygote = FakeZygote()
        self.all.append(zygote)
        self.started.put_nowait(zygote)
        return zygote.started

    async def next(self) -> FakeZygote:
        return await soon(self.started.get())


class Stage:
    """A spawner and its zygotes."""

    def __init__(self) -> None:
        self.starter = Starter()
        self.spawner = ZygoteSpawner(self.starter, None)
        self.fds = [os.open("/dev/zero", os.O_RDONLY) for _ in range(3)]

    async def start(self) -> FakeZygote:
        starting = asyncio.create_task(self.spawner.start(60.0))
        zygote = await self.starter.next()
        zygote.say(Prepared(True, ""))
        await soon(starting)
        return zygote

    async def spawn(self, zygote: FakeZygote, script: str) -> WorkerProcess:
        """Spawn worker 7, which runs `script`."""
        spawning = asyncio.create_task(self.order())
        _, fds = await zygote.hear()
        for fd in fds:
            os.close(fd)
        zygote.fork(script)
        return await soon(spawning)

    async def order(self) -> WorkerProcess:
        handoff, board, stacks = self.fds
        ours, channel = socket.socketpair()
        ours.close()
        return await self.spawner.spawn(ORDER, handoff, channel, (board, stacks))

    async def hand_over(self) -> None:
        """Hear and do nothing more, as a program that is not there any more."""
        handle, self.spawner._zygote = self.spawner._zygote, None
        assert handle is not None
        asyncio.get_running_loop().remove_reader(handle._sock.fileno())
        handle._sock.close()
        os.close(handle._pidfd)
        await self.spawner.close()

    async def close(self) -> None:
        for zygote in self.starter.all:
            zygote.close()
        await soon(self.spawner.close())
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.close()


# ---- starting a zygote


async def test_start_waits_until_the_app_is_imported(stage: Stage) -> None:
    """Nothing is forked before the zygote is prepared."""
    starting = asyncio.create_task(stage.spawner.start(60.0))
    zygote = await stage.starter.next()
    await turns(20)
    assert not starting.done()

    zygote.say(Prepared(True, ""))
    await soon(starting)

    assert stage.spawner.knows(zygote.pid)


async def test_a_note_of_the_zygote_is_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The user hears why the app is imported in each worker; each line of it is a warning."""
    starting = asyncio.create_task(stage.spawner.start(60.0))
    (await stage.starter.next()).say(Prepared(False, "it left a thread\nand equal generators"))
    await soon(starting)

    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "it left a thread",
        "and equal generators",
    ]


async def test_the_first_zygote_may_be_there_already() -> None:
    """`run` forks it before there is a loop; it is not started twice."""
    starter, first = Starter(), FakeZygote()
    spawner = ZygoteSpawner(starter, first.started)
    first.say(Prepared(True, ""))

    await soon(spawner.start(60.0))

    assert spawner.knows(first.pid)
    assert starter.all == []
    await soon(spawner.close())
    first.close()


async def test_an_app_that_cannot_be_imported_fails_the_start(stage: Stage) -> None:
    """With the cause and the traceback that the zygote saw."""
    starting = asyncio.create_task(stage.spawner.start(60.0))
    (await stage.starter.next()).say(PrepareFailed("ValueError: no", "Traceback …"))

    with pytest.raises(BootError) as caught:
        await soon(starting)

    assert (caught.value.cause, caught.value.traceback) == ("ValueError: no", "Traceback …")


async def test_an_import_that_takes_too_long_fails_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And a zygote that goes on importing is killed when the spawner closes."""
    monkeypatch.setattr("aiocluster.primary.processes.zygote_handle.STOP_IMPORT_TIMEOUT", 0.01)
    zygote = FakeZygote("exec sleep 1000")
    spawner = ZygoteSpawner(Starter(), zygote.started)

    with pytest.raises(BootError, match=r"importing the app took longer than 0\.01 s"):
        await soon(spawner.start(0.01))
    await soon(spawner.close())

    assert is_reaped(zygote.pid)
    zygote.close()


async def test_a_zygote_that_dies_while_importing_fails_the_start(stage: Stage) -> None:
    """An import that ends the interpreter is an app that cannot be imported."""
    starting = asyncio.create_task(stage.spawner.start(60.0))
    (await stage.starter.next()).close()

    with pytest.raises(BootError, match="the zygote died while importing the app"):
        await soon(starting)


# ---- forking


async def test_a_fork_carries_its_order_and_its_descriptors(stage: Stage) -> None:
    """The zygote gets what the worker is to be, and duplicates of its three descriptors."""
    zygote = await stage.start()
    spawning = asyncio.create_task(stage.order())

    message, fds = await zygote.hear()
    pid = zygote.fork("exit 0")
    process = await soon(spawning)

    assert message == ORDER
    assert len(fds) == 4
    assert process.pid == pid
    assert stage.spawner.knows(pid)
    for fd in fds:
        os.close(fd)
    await soon(process.wait())


async def test_the_zygote_says_how_a_worker_ended(stage: Stage) -> None:
    """Then the spawner forgets it."""
    zygote = await stage.start()
    process = await stage.spawn(zygote, "exec sleep 1000")
    process.send_signal(signal.SIGKILL)
    zygote.say(Exited(7, 4 << 8))

    assert await soon(process.wait()) == ExitStatus(4, None)

    await turns()
    assert not stage.spawner.knows(process.pid)
    zygote.say(Exited(7, 0))
    await turns(20)
    reap(process.pid)


async def test_a_fork_that_failed_is_told(stage: Stage) -> None:
    """With the kernel's reason; another try may succeed."""
    zygote = await stage.start()
    spawning = asyncio.create_task(stage.order())
    _, fds = await zygote.hear()
    zygote.say(ForkFailed(7, "Resource temporarily unavailable"))

    with pytest.raises(WorkerGone, match="cannot fork: Resource temporarily unavailable"):
        await soon(spawning)

    for fd in fds:
        os.close(fd)
    process = await stage.spawn(zygote, "exit 0")
    await soon(process.wait())


async def test_a_worker_nobody_waits_for_any_more_is_killed(stage: Stage) -> None:
    """Who gave up on a fork gets no worker behind his back."""
    zygote = await stage.start()
    spawning = asyncio.create_task(stage.order())
    _, fds = await zygote.hear()
    spawning.cancel()
    await asyncio.wait({spawning})
    gone: list[bool] = []
    stage.spawner.when_gone(ORDER.worker_id, lambda: gone.append(is_reaped(pid)))
    stage.spawner.when_gone(8, lambda: gone.append(False))  # of this one nothing can come

    pid = zygote.fork("exec sleep 1000")
    pidfd = os.pidfd_open(pid)
    await turns_until(lambda: stage.spawner.knows(pid))
    assert gone == [False]
    await turns_until(lambda: not stage.spawner.knows(pid))
    await turns_until(lambda: len(gone) == 2)

    assert is_reaped(pid)
    assert gone == [False, True]
    for fd in [*fds, pidfd]:
        os.close(fd)


# ---- the zygote dies


async def test_a_dead_zygote_is_replaced_and_living_workers_are_watched(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers go on; the new zygote gets a pidfd of each, to outlive the primary with."""
    zygote = await stage.start()
    process = await stage.spawn(zygote, "exec sleep 1000")
    zygote.close()
    successor = await stage.starter.next()
    successor.say(Prepared(True, ""))

    message, (pidfd,) = await successor.hear()

    assert message == Watch(7)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert await soon(process.wait()) == ExitStatus(None, signal.SIGKILL)
    os.close(pidfd)
    assert "is gone; starting a new one, workers go on" in caplog.text
    assert is_reaped(zygote.pid)


async def test_the_new_zygote_forks(stage: Stage) -> None:
    """What is asked for meanwhile waits for it."""
    (await stage.start()).close()
    successor = await stage.starter.next()
    spawning = asyncio.create_task(stage.order())
    await turns()
    successor.say(Prepared(True, ""))

    _, fds = await successor.hear()
    successor.fork("exit 0")

    await soon((await soon(spawning)).wait())
    for fd in fds:
        os.close(fd)


async def test_a_fork_asked_for_in_the_turn_of_a_death_waits_for_the_next(stage: Stage) -> None:
    """It neither fails nor is sent to nobody."""
    await stage.start()
    zygote = stage.spawner._zygote
    assert zygote is not None
    zygote.give_up()
    spawning = asyncio.create_task(stage.order())
    successor = await stage.starter.next()
    successor.say(Prepared(True, ""))

    _, fds = await successor.hear()
    successor.fork("exit 0")

    assert await soon((await soon(spawning)).wait()) == ExitStatus(0, None)
    for fd in fds:
        os.close(fd)


async def test_a_fork_that_was_under_way_fails(stage: Stage) -> None:
    """Nobody waits for an answer that cannot come; the slot tries again."""
    zygote = await stage.start()
    spawning = asyncio.create_task(stage.order())
    _, fds = await zygote.hear()
    zygote.close()

    with pytest.raises(WorkerGone, match="the zygote died"):
        await soon(spawning)

    for fd in fds:
        os.close(fd)
    (await stage.starter.next()).say(Prepared(True, ""))


async def test_nonsense_from_the_zygote_counts_as_its_death(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be understood cannot be trusted: it is killed, and replaced."""
    zygote = await stage.start()
    zygote.sock.send(b"\xc1nonsense")

    (await stage.starter.next()).say(Prepared(True, ""))

    assert "the zygote sent nonsense" in caplog.text
    await readable(zygote.sock)
    assert zygote.sock.recv(100) == b""


async def test_a_zygote_that_cannot_be_started_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each try is logged, and once that no worker is left; in the end there is one again."""
    monkeypatch.setattr("aiocluster.primary.processes.spawner._ZYGOTE_PAUSE", 0.001)
    zygote = await stage.start()
    stage.starter.failures = 2
    zygote.close()

    (await stage.starter.next()).say(Prepared(True, ""))

    assert caplog.text.count("no new zygote, next try in") == 2
    assert (
        caplog.text.count("role web has no worker of this generation, and none can be forked") == 1
    )


async def test_while_workers_serve_a_lost_zygote_is_no_alarm(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The line that nothing is serving comes only when it is so."""
    monkeypatch.setattr("aiocluster.primary.processes.spawner._ZYGOTE_PAUSE", 0.001)
    zygote = await stage.start()
    process = await stage.spawn(zygote, "exec sleep 1000")
    stage.starter.failures = 2
    zygote.close()

    await stage.starter.next()

    assert caplog.text.count("no new zygote, next try in") == 2
    assert "has no worker" not in caplog.text
    process.send_signal(signal.SIGKILL)
    await soon(process.wait())


async def test_a_new_zygote_that_cannot_import_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that is broken on disk now may be mended in a moment; workers go on."""
    monkeypatch.setattr("aiocluster.primary.processes.spawner._ZYGOTE_PAUSE", 0.001)
    (await stage.start()).close()
    broken = await stage.starter.next()
    broken.say(PrepareFailed("SyntaxError: invalid syntax", ""))

    (await stage.starter.next()).say(Prepared(True, ""))

    await turns()
    assert is_reaped(broken.pid)


async def test_who_is_retired_gets_no_new_zygote(stage: Stage) -> None:
    """Who still asks it to fork hears that its time is over, and waits for nothing."""
    zygote = await stage.start()
    stage.spawner.retire()
    zygote.close()
    await turns_until(lambda: not stage.spawner.knows(zygote.pid))
    with pytest.raises(WorkerGone, match="its generation is over"):
        await soon(stage.order())
    assert stage.starter.started.empty()


async def test_tries_for_a_new_zygote_end_with_its_time(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have failed to start until then."""
    monkeypatch.setattr("aiocluster.primary.processes.spawner._ZYGOTE_PAUSE", 0.01)
    zygote = await stage.start()
    stage.starter.failures = 1
    zygote.close()
    await turns_until(lambda: not stage.starter.failures)
    stage.spawner.retire()
    with pytest.raises(WorkerGone, match="its generation is over"):
        await soon(stage.order())


# ---- the end


async def test_who_waits_for_a_zygote_hears_that_there_will_be_none(stage: Stage) -> None:
    """Also who asks afterwards."""
    zygote = await stage.start()
    stage.starter.failures = 1000
    zygote.close()
    await turns_until(lambda: stage.starter.failures < 1000)
    waiting = asyncio.create_task(stage.order())
    await turns()
    await soon(stage.spawner.close())
    for order in (waiting, stage.order()):
        with pytest.raises(WorkerGone, match="its generation is over"):
            await soon(order)


async def test_close_lets_the_zygote_go_and_reaps_it(stage: Stage) -> None:
    """Nothing is left of it; to close twice is harmless."""
    zygote = await stage.start()

    await soon(stage.spawner.close())
    await soon(stage.spawner.close())

    await readable(zygote.sock)
    assert zygote.sock.recv(100) == b""
    assert not stage.spawner.knows(zygote.pid)
    assert is_reaped(zygote.pid)


async def test_close_may_meet_the_end_of_the_zygote(stage: Stage) -> None:
    """Its keeper is about to reap it: neither waits in vain for what the other has heard."""
    zygote = await stage.start()
    began = asyncio.get_running_loop().time()
    zygote.sock.close()
    await turns_until(lambda: not stage.spawner._ready.is_set())
    await soon(stage.spawner.close())

    zygote.close()
    assert asyncio.get_running_loop().time() - began < 5.0 * 0.9  # its _EXIT_TIMEOUT


async def test_a_zygote_that_does_not_go_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every wait has an end."""
    monkeypatch.setattr("aiocluster.primary.processes.zygote_handle.EXIT_TIMEOUT", 0.01)
    zygote = FakeZygote("exec sleep 1000")
    spawner = ZygoteSpawner(Starter(), zygote.started)
    zygote.say(Prepared(True, ""))
    await soon(spawner.start(60.0))

    await soon(spawner.close())

    assert is_reaped(zygote.pid)
    zygote.close()


async def test_close_before_start_is_nothing() -> None:
    """A cluster that failed before its zygote is stopped the same way."""
    await soon(ZygoteSpawner(Starter(), None).close())


async def test_no_descriptor_is_left_behind() -> None:
    """Over zygotes and workers that come and go."""
    before = open_fds()
    stage = Stage()
    zygote = await stage.start()
    process = await stage.spawn(zygote, "exit 0")
    await soon(process.wait())
    zygote.close()
    (await stage.starter.next()).say(Prepared(True, ""))
    await turns(20)
    await stage.close()

    assert open_fds() <= before


async def test_another_goes_on_with_the_zygote_and_its_workers(stage: Stage) -> None:
    """It forks for the new one, and tells it how those it had forked for the old one end."""
    zygote = await stage.start()
    assert stage.spawner.state() is not None
    assert not stage.spawner.is_forking
    process = start_process("exit 5")
    pidfd = os.pidfd_open(process)
    other = ZygoteSpawner(stage.starter, None)
    left = GenerationState(
        number=1,
        is_retired=False,
        zygote=ZygoteState(pid=zygote.pid, fd=os.dup(zygote.theirs.fileno())),
        zygote_pids=[zygote.pid],
    )
    await stage.hand_over()
    other.adopt(left, 60.0)
    adopted = other.adopt_worker(3, process, pidfd)

    assert other.worker_ids == {3}
    assert other.knows(process)
    assert other.zygote_pids == {zygote.pid}
    zygote.say(Exited(3, 5 << 8))
    assert await soon(adopted.wait()) == ExitStatus(5, None)
    await turns_until(lambda: not other.worker_ids)
    reap(process)
    zygote.close()
    await soon(other.close())


async def test_without_a_zygote_another_starts_one(stage: Stage) -> None:
    """Unless nothing more is to be forked."""
    alone = GenerationState(number=1, is_retired=False, zygote=None, zygote_pids=[])
    retired = GenerationState(number=1, is_retired=True, zygote=None, zygote_pids=[])
    other = ZygoteSpawner(stage.starter, None)
    other.adopt(retired, 60.0)
    stage.spawner.adopt(alone, 60.0)
    zygote = await stage.starter.next()
    zygote.say(Prepared(True, ""))
    assert zygote.pid in stage.spawner.zygote_pids
    assert other.zygote_pids == set()


async def test_a_zygote_that_is_not_ready_is_left_to_nobody(stage: Stage) -> None:
    """It is killed: the next program starts its own."""
    starting = asyncio.create_task(stage.spawner.start(60.0))
    await stage.starter.next()
    assert stage.spawner.state() is None
    stage.spawner.drop_unready()
    with pytest.raises(BootError):
        await soon(starting)


async def test_a_zygote_that_can_never_be_replaced_is_not_waited_for(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The workers go on; that none comes any more is said once, and by each attempt to get one."""
    zygote = await stage.start()
    process = await stage.spawn(zygote, "exec sleep 1000")
    stage.starter.refusal = CannotStart("this program cannot be run again: it is gone")
    zygote.close()
    await turns_until(lambda: "no new zygote" in caplog.text)
    await turns(20)

    for _ in range(2):
        with pytest.raises(CannotStart, match="it is gone"):
            await soon(stage.order())
    assert not process.is_dead
    assert caplog.text.count("no new zygote: this program cannot be run again") == 1
    assert "next try" not in caplog.text
    process.send_signal(signal.SIGKILL)
    await soon(process.wait())


async def test_a_generation_that_cannot_be_started_is_refused(stage: Stage) -> None:
    """With the reason, and no zygote is left."""
    stage.starter.refusal = CannotStart("this program cannot be run again: it is gone")
    with pytest.raises(BootError, match="it is gone"):
        await stage.spawner.start(60.0)


async def test_where_a_later_zygote_has_found_the_app_is_logged(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """By its real path: behind a link that a deploy turns it says which release serves."""
    caplog.set_level("INFO")
    starting = asyncio.create_task(stage.spawner.start(60.0))
    (await stage.starter.next()).say(Prepared(True, "", "/srv/releases/8"))
    await soon(starting)

    assert "the app was imported from /srv/releases/8" in caplog.text
