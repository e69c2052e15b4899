"""One zygote, seen from the primary. The test plays it; its process is real, and short."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgpack
import pytest

from aiocluster.config.run_app import RunAppCall
from aiocluster.errors import BootError, WorkerGone
from aiocluster.ipc.messages import (
    Exited,
    Fork,
    Forked,
    ForkFailed,
    Prepared,
    PrepareFailed,
    Watch,
)
from aiocluster.ipc.packets import MAX_FDS, MAX_PACKET_BYTES
from aiocluster.primary.processes.process import WorkerProcess
from aiocluster.primary.processes.zygote_handle import ZygoteHandle
from tests.support.connections import open_fds
from tests.support.processes import is_reaped, reap
from tests.support.waiting import readable, soon, turns, turns_until
from tests.support.zygotes import FakeZygote

ORDER = Fork(7, 0, "web", 1, 0, [], {})


class Stage:
    """A zygote, both sides, and what the primary heard."""

    def __init__(self, script: str = "exec sleep 1000") -> None:
        self.zygote = FakeZygote(script)
        self.forked: list[tuple[int, WorkerProcess]] = []
        self.exited: list[tuple[int, int]] = []
        self.handle = ZygoteHandle(
            self.zygote.started,
            lambda worker_id, process: self.forked.append((worker_id, process)),
            lambda worker_id, status: self.exited.append((worker_id, status)),
        )
        self.fd = os.open("/dev/zero", os.O_RDONLY)

    def order(self) -> "asyncio.Future[WorkerProcess]":
        return self.handle.order(ORDER, (self.fd, self.fd, self.fd, self.fd))

    async def close(self) -> None:
        self.handle.give_up()
        await soon(self.handle.close())
        self.zygote.close()
        os.close(self.fd)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.close()


# ---- importing the app


async def test_it_is_prepared_when_it_says_so(stage: Stage) -> None:
    """With its note, and what the code gave to run_app; said again, it changes nothing."""
    prepared = Prepared(False, "a note", call=RunAppCall({"backlog": 7}, "backlog 7"))
    stage.zygote.say(prepared)
    stage.zygote.say(Prepared(True, ""))

    assert await soon(stage.handle.prepare(60.0)) == prepared
    await turns(20)
    assert not stage.handle.lost.is_set()


@pytest.mark.parametrize("late", [True, False])
async def test_an_import_that_takes_too_long_is_an_error(stage: Stage, late: bool) -> None:
    """And what it says after that changes nothing."""
    with pytest.raises(BootError, match=r"importing the app took longer than 0\.01 s"):
        await soon(stage.handle.prepare(0.01))
    if late:
        stage.zygote.say(Prepared(True, ""))
        await turns(20)
        assert not stage.handle.lost.is_set()


async def test_a_failed_import_tells_its_cause(stage: Stage) -> None:
    """And its traceback."""
    stage.zygote.say(PrepareFailed("ValueError: no", "Traceback …"))

    with pytest.raises(BootError) as caught:
        await soon(stage.handle.prepare(60.0))

    assert (caught.value.cause, caught.value.traceback) == ("ValueError: no", "Traceback …")


# ---- forking


async def test_an_order_is_answered_with_a_process(stage: Stage) -> None:
    """Whoever watches workers hears of it before who ordered it."""
    forked = stage.order()
    message, fds = await stage.zygote.hear()
    stage.zygote.fork("exit 0")

    process = await soon(forked)

    assert (message, len(fds)) == (ORDER, 4)
    assert stage.forked == [(7, process)]
    await soon(process.wait())
    for fd in fds:
        os.close(fd)


async def test_a_worker_whose_descriptor_was_lost_is_a_failed_fork(stage: Stage) -> None:
    """At the limit of open files the kernel destroys it; the zygote is well."""
    forked = stage.order()
    stage.zygote.say(Forked(7, 5_000_000))

    with pytest.raises(WorkerGone, match="too many open files"):
        await soon(forked)

    assert not stage.handle.lost.is_set()
    assert stage.forked == []


async def test_a_failed_fork_is_told(stage: Stage) -> None:
    """With the kernel's reason."""
    forked = stage.order()
    stage.zygote.say(ForkFailed(7, "Resource temporarily unavailable"))

    with pytest.raises(WorkerGone, match="cannot fork: Resource temporarily unavailable"):
        await soon(forked)


async def test_an_answer_nobody_waits_for_is_harmless(stage: Stage) -> None:
    """Whoever did ask has gone."""
    stage.order().cancel()
    stage.zygote.say(ForkFailed(7, "late"))
    stage.zygote.say(Exited(9, 0))

    await turns_until(lambda: bool(stage.exited))

    assert not stage.handle.lost.is_set()
    assert stage.exited == [(9, 0)]


async def test_one_that_does_not_answer_is_killed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is stopped, or hangs in a hook around forks: nobody waits for ever."""
    monkeypatch.setattr("aiocluster.primary.processes.zygote_handle._ANSWER_TIMEOUT", 0.01)
    os.kill(stage.zygote.pid, signal.SIGSTOP)

    with pytest.raises(WorkerGone, match="the zygote died"):
        await soon(stage.order())

    await soon(stage.handle.close())
    assert is_reaped(stage.zygote.pid)
    assert "has not forked for 0.01 s" in caplog.text


async def test_a_lost_one_takes_no_orders(stage: Stage) -> None:
    """The next one may."""
    stage.handle.give_up()

    with pytest.raises(WorkerGone, match="the zygote died"):
        stage.order()


async def test_it_can_be_told_of_workers_until_it_is_full(stage: Stage) -> None:
    """Full is no error: it reads, but perhaps not as fast as we write."""
    told = 0
    while stage.handle.watch(told, stage.fd):
        told += 1

    message, fds = await stage.zygote.hear()

    assert (message, len(fds)) == (Watch(0), 1)
    assert stage.handle.watch(told, stage.fd)
    os.close(fds[0])


# ---- its end


@pytest.mark.parametrize("how", ["nonsense", "message", "asked"])
async def test_one_that_is_given_up_is_dead_before_its_socket_closes(
    stage: Stage, how: str
) -> None:
    """It would take a closed socket for the primary's death, and end healthy workers."""
    if how == "nonsense":
        stage.zygote.sock.send(b"\xc1nonsense")
    elif how == "message":
        stage.zygote.say(Exited(7, 0), stage.fd)
    else:
        stage.handle.give_up()
    await soon(stage.handle.lost.wait())

    await readable(stage.zygote.sock)
    assert stage.zygote.sock.recv(100) == b""
    # Dead, or about to be: this does not block.
    status = os.waitid(os.P_PID, stage.zygote.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222
    assert status is not None
    assert status.si_status == signal.SIGKILL


NONSENSE = {
    "half a packet": (msgpack.packb([82, 7, 2])[:2], 0),
    "no packet": (b"\xc1nonsense", 0),
    "an empty packet with descriptors": (b"", 3),
    "a packet that is too long": (b"\xc0" * (MAX_PACKET_BYTES + 1), 0),
    "a message for a zygote": (msgpack.packb([61, 7]), 1),
    "too many descriptors": (msgpack.packb([82, 7, 2]), MAX_FDS + 1),
    "two descriptors": (msgpack.packb([82, 7, 2]), 2),
    "no pidfd": (msgpack.packb([82, 7, 2]), 1),
    "a worker that was not ordered": (msgpack.packb([82, 8, 2]), 0),
    "a failure that was not ordered": (msgpack.packb([83, 8, "no"]), 0),
    "no pid": (msgpack.packb([82, 7, 0]), 0),
    "a pid too large": (msgpack.packb([82, 7, 2**63]), 0),
    "a long failure": (msgpack.packb([83, 7, "x" * 100_000]), 0),
    "an end with a descriptor": (msgpack.packb([84, 7, 0]), 1),
    "no status": (msgpack.packb([84, 7, -1]), 0),
    "a status too large": (msgpack.packb([84, 7, 2**63]), 0),
    "a status of one that is stopped": (msgpack.packb([84, 7, 0x137F]), 0),
}


@pytest.mark.parametrize("kind", NONSENSE)
async def test_nonsense_ends_it_and_leaves_nothing(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Code that it has imported may write to its socket: one line says so, of the usual length."""
    packet, count = NONSENSE[kind]
    before = open_fds()
    stage = Stage()
    forked = stage.order()
    _, fds = await stage.zygote.hear()
    socket.send_fds(stage.zygote.sock, [packet], [stage.fd] * count)
    await soon(stage.handle.lost.wait())

    with pytest.raises(WorkerGone, match="the zygote died"):
        await soon(forked)
    assert (stage.forked, stage.exited) == ([], [])
    for fd in fds:
        os.close(fd)
    await stage.close()
    # Those of tests before this one may be closed meanwhile, and no others.
    await turns_until(lambda: open_fds() <= before)
    assert len(caplog.messages) == (0 if packet == b"" else 1)
    assert all(len(line) < 300 for line in caplog.messages)


async def test_a_closed_socket_is_its_end(stage: Stage) -> None:
    """Whoever waits for an answer hears of it."""
    preparing = asyncio.create_task(stage.handle.prepare(60.0))
    forked = stage.order()
    stage.zygote.close()

    with pytest.raises(WorkerGone, match="the zygote died"):
        await soon(forked)
    with pytest.raises(BootError, match="the zygote died while importing the app"):
        await soon(preparing)


async def test_close_lets_an_idle_one_go() -> None:
    """By closing its socket alone; to close twice is harmless."""
    stage = Stage("read gone; exit 7")
    stage.zygote.say(Prepared(True, ""))
    await soon(stage.handle.prepare(60.0))
    os.kill(stage.zygote.pid, signal.SIGTERM)

    await soon(stage.handle.close())
    await stage.close()

    assert is_reaped(stage.zygote.pid)


async def test_close_kills_one_that_does_not_go(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every wait has an end."""
    monkeypatch.setattr("aiocluster.primary.processes.zygote_handle.EXIT_TIMEOUT", 0.01)
    stage.zygote.say(Prepared(True, ""))
    await soon(stage.handle.prepare(60.0))

    await soon(stage.handle.close())

    await turns_until(lambda: is_reaped(stage.zygote.pid))


async def test_close_lets_one_that_imports_end_what_that_has_started(tmp_path: Path) -> None:
    """It hears of the end of its socket, and has a moment: one that is killed leaves it behind."""
    go, done = tmp_path / "go", tmp_path / "done"
    stage = Stage(f"while [ ! -e {go} ]; do sleep 0.01; done; echo > {done}")
    closing = asyncio.create_task(stage.handle.close())
    await readable(stage.zygote.sock)
    assert stage.zygote.sock.recv(100) == b""
    go.touch()

    await soon(closing)
    await stage.close()

    assert done.exists()
    assert is_reaped(stage.zygote.pid)


async def test_close_kills_one_whose_import_hears_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be deep in C."""
    monkeypatch.setattr("aiocluster.primary.processes.zygote_handle.STOP_IMPORT_TIMEOUT", 0.01)
    stage = Stage("trap '' TERM; while :; do sleep 1000; done")

    await soon(stage.handle.close())
    await stage.close()

    await turns_until(lambda: is_reaped(stage.zygote.pid))


@pytest.mark.parametrize("when", ["before", "after"])
async def test_one_that_somebody_else_has_reaped_is_gone(when: str) -> None:
    """A program that ignores SIGCHLD, or waits for any child, takes its status."""
    zygote = FakeZygote("true")
    if when == "before":
        reap(zygote.pid)
    handle = ZygoteHandle(zygote.started, lambda *_: None, lambda *_: None)
    if when == "after":
        reap(zygote.pid)

    await soon(handle.close())

    zygote.close()


async def test_no_descriptor_is_left_behind() -> None:
    """Whatever it had ordered and was told."""
    before = open_fds()
    stage = Stage()
    stage.order()
    stage.zygote.say(Exited(7, 0), stage.fd)
    await soon(stage.handle.lost.wait())
    await stage.close()

    assert open_fds() <= before
