"""New workers, each whole or not at all. The spawner is the test's, the wires are real."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator

import pytest

from aiocluster.errors import WorkerGone
from aiocluster.primary.dispatch.capacity import Limits
from aiocluster.primary.workers.factory import WorkerFactory
from aiocluster.primary.workers.handle import WorkerSpec
from tests.support.connections import close_all, open_fds
from tests.support.waiting import turns
from tests.support.workers import FakeOwner, FakeSpawner, let_go

SPEC = WorkerSpec(7, 2, "web", 3, 0, {"A": "1", "AIOCLUSTER_WORKER_ID": "99"})


class Stage:
    """A hiring, and what it has."""

    def __init__(self) -> None:
        self.owner = FakeOwner()
        self.spawner = FakeSpawner()
        self.board = self.owner.scoreboard
        self.factory = WorkerFactory(
            self.board, self.owner, Limits(0.05, 1024), lambda: None, close_all
        )
        self.factory.families = [socket.AF_INET, socket.AF_INET6]

    def free_rows(self) -> int:
        return len(self.board._free)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    stage.spawner.let_go()
    await turns()


async def test_a_worker_is_told_who_it_is(stage: Stage) -> None:
    """In its order, and in its environment, which what the user gave cannot hide."""
    worker, process = await stage.factory.spawn(SPEC, stage.spawner)

    fork = (await stage.spawner.next()).fork
    assert (fork.worker_id, fork.slot, fork.role, fork.generation) == (7, 2, "web", 3)
    assert (fork.row, fork.families) == (worker.row, [socket.AF_INET, socket.AF_INET6])
    assert fork.env == {
        "A": "1",
        "AIOCLUSTER_WORKER_ID": "7",
        "AIOCLUSTER_SLOT": "2",
        "AIOCLUSTER_ROLE": "web",
    }
    assert process is stage.spawner.workers[0].process
    let_go(worker, stage.spawner.workers[0])


@pytest.mark.parametrize(
    ("refusal", "text"),
    [
        (WorkerGone("cannot fork: no"), "cannot fork: no"),
        (OSError(errno.EMFILE, "Too many open files"), r"cannot fork: .* Too many open files"),
        (asyncio.CancelledError("given up"), "given up"),
        (ValueError("a bug"), "a bug"),
    ],
)
async def test_one_that_cannot_be_forked_leaves_nothing(
    stage: Stage, refusal: Exception, text: str
) -> None:
    """No descriptor and no row; a want of the system's passes, so it may be tried again."""
    before, rows = open_fds(), stage.free_rows()
    stage.spawner.refusals = [refusal]
    expected = WorkerGone if isinstance(refusal, OSError) else type(refusal)

    with pytest.raises(expected, match=text):
        await stage.factory.spawn(SPEC, stage.spawner)

    await turns()
    assert open_fds() <= before
    assert stage.free_rows() == rows


async def test_a_row_is_given_away_once_nobody_can_write_it(stage: Stage) -> None:
    """One whose fork was given up may be there already, until it is killed."""
    rows = stage.free_rows()
    stage.spawner.refusals = [asyncio.CancelledError("given up")]  # type: ignore[list-item]
    stage.spawner.unwanted = []
    with pytest.raises(asyncio.CancelledError):
        await stage.factory.spawn(SPEC, stage.spawner)
    assert stage.free_rows() == rows - 1
    for heard in stage.spawner.unwanted:
        heard()

    assert stage.free_rows() == rows


@pytest.mark.parametrize("scarce", ["handoff_pair", "socket.socketpair"])
async def test_a_want_of_descriptors_for_its_wires_leaves_nothing(
    stage: Stage, scarce: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of them cannot be made."""
    before, rows = open_fds(), stage.free_rows()

    def fail() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(f"aiocluster.primary.workers.factory.{scarce}", fail)
        if scarce == "socket.socketpair":
            patch.setattr("aiocluster.primary.workers.factory.handoff_pair", _plain_pair)
        with pytest.raises(WorkerGone, match="Too many open files"):
            await stage.factory.spawn(SPEC, stage.spawner)

    assert open_fds() <= before
    assert stage.free_rows() == rows


def _plain_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return client, server.accept()[0]


async def test_a_worker_gets_the_sockets_that_are_shared(stage: Stage) -> None:
    """Behind the others, and its order says which they are."""
    with socket.socket() as one, socket.socket() as other:
        stage.factory.shared = lambda: {0: one.fileno(), 3: other.fileno()}
        worker, _ = await stage.factory.spawn(SPEC, stage.spawner)

        fake = await stage.spawner.next()
        assert fake.fork.shared == [0, 3]
        assert stage.spawner.files[2:] == [one.fileno(), other.fileno()]
    assert worker.shared == {0, 3}
    let_go(worker, fake)
