"""What may be done to a program under load, one action after the other, chosen by the dice.

An action may return before its effects are over, so that the next one meets them.
"""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import cache, partial

import psutil

from tests.chaos.scene import WORKERS, Scene, paused, resume, send, suspend
from tests.support.breaking import FAULTS_OF
from tests.support.census import fds_of
from tests.support.program import is_running, until
from tests.support.wire import Wire

Action = Callable[[Scene], Awaitable[object]]

# For `program_of`: the program has as many workers as the file `wanted` says.
ON_START = "scale_when_asked"
SCALING = """
import asyncio, os

async def scale_when_asked(cluster):
    await tell(cluster)
    while True:
        while not os.path.exists("wanted"):
            await asyncio.sleep(0.01)
        with open("wanted") as file:
            wanted = int(file.read())
        os.unlink("wanted")
        is_scaled = False
        while not is_scaled:
            try:
                await cluster.scale(wanted)
                is_scaled = True
            except aiocluster.BootError:  # a new one was killed
                pass
"""

# The kernel does not limit root's processes. So a program of root's runs as another user, who may
# read and write the same files.
_ORDINARY = (
    *("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"),
    *(f"--{kind}=-all,+dac_override" for kind in ("inh-caps", "ambient-caps", "bounding-set")),
)

# What `prlimit` sets.
_LIMITS = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}


@cache
def as_ordinary_user() -> Sequence[str]:
    """Return what goes before a command, so that a limit of processes holds; () if nothing does."""
    if os.getuid() == 0 and shutil.which(_ORDINARY[0]):
        tried = subprocess.run([*_ORDINARY, "true"], capture_output=True, check=False)
        if tried.returncode == 0:
            return _ORDINARY
    return ()


async def do_some(scene: Scene, count: int) -> None:
    """Do so many actions, and wait until all workers serve."""
    for _ in range(count):
        await until(lambda: bool(scene.workers()), "no worker comes")
        action, name = scene.dice.choice(ACTIONS)
        scene.program.lines.append(f"---- {name}")  # for whoever reads why a test failed
        await action(scene)
        await scene.load.some(scene.dice.randint(1, 20))
        if scene.dice.random() < 0.3:
            await scene.complete()
    await scene.complete()
    await scene.load.each(1)


async def terminate_workers(scene: Scene) -> None:
    """TERM to some workers."""
    send(scene.some_workers(), signal.SIGTERM)


async def kill_workers(scene: Scene) -> None:
    """SIGKILL to some workers."""
    scene.kill(scene.some_workers())


async def kill_zygotes(scene: Scene) -> None:
    """SIGKILL to the zygotes, one that imports included."""
    scene.kill(scene.zygotes())


async def reload(scene: Scene) -> None:
    """HUP."""
    scene.program.send_signal(signal.SIGHUP)


async def scale(scene: Scene) -> None:
    """To another number of workers, and back."""
    file = scene.program.folder / "wanted"
    for wanted in (scene.dice.choice((1, 2, 4, 5)), WORKERS):
        scene.program.write("wanted.new", str(wanted))
        (scene.program.folder / "wanted.new").rename(file)
        await until(lambda: not file.exists(), "the program does not scale")


async def pause(scene: Scene) -> None:
    """SIGSTOP and SIGCONT: the primary, the zygote, some workers, or all processes."""
    everybody = scene.everybody()
    stopped = scene.dice.choice((everybody[:1], scene.zygotes(), scene.some_workers(), everybody))
    suspend(stopped)
    await paused(scene.dice.random() * 0.3)
    resume(stopped)


async def block_a_worker(scene: Scene) -> None:
    """A request blocks the loop of its worker for a moment."""
    shared_listener = f"gate{scene.dice.getrandbits(64):016x}"
    async with Wire(scene.url) as wire:
        await wire.ask(f"/block/{shared_listener}")
        await until(lambda: shared_listener in scene.begun(), "no worker blocks")
        await paused(scene.dice.random() * 0.3)
        scene.program.write(shared_listener)
        await wire.response()


async def break_a_wire(scene: Scene, wire: str) -> None:
    """A worker closes, shuts down or replaces its wire to the primary, or sends junk by it."""
    fault = scene.dice.choice(FAULTS_OF[wire])
    async with Wire(scene.url) as client:
        assert (await client.get(f"/break/{wire}/{fault}")).status == 200


async def refuse_descriptors_to_workers(scene: Scene) -> None:
    """Some workers have room for no further connection, or for a few, while others serve."""
    with _limited(scene, scene.some_workers(), "nofile"):
        await scene.load.some(20)


async def refuse_to_the_primary(scene: Scene) -> None:
    """The primary gets no descriptor, or a few, while it has something to start."""
    with _limited(scene, scene.everybody()[:1], "nofile"):
        await _have_something_started(scene)


async def refuse_processes(scene: Scene) -> None:
    """No process may start another, while something is to be started."""
    with _limited(scene, scene.everybody(), "nproc"):
        await _have_something_started(scene)


async def _have_something_started(scene: Scene) -> None:
    await scene.dice.choice((terminate_workers, kill_workers, kill_zygotes, reload))(scene)
    await paused(0.1)


ACTIONS: Sequence[tuple[Action, str]] = (
    (terminate_workers, "TERM to workers"),
    (kill_workers, "SIGKILL to workers"),
    (kill_zygotes, "SIGKILL to the zygotes"),
    (reload, "HUP"),
    (scale, "scaling"),
    (pause, "a pause"),
    (block_a_worker, "a blocked worker"),
    (partial(break_a_wire, wire="handoff"), "a broken handoff"),
    (partial(break_a_wire, wire="channel"), "a broken channel"),
    (refuse_descriptors_to_workers, "no descriptors for workers"),
    (refuse_to_the_primary, "no descriptors for the primary"),
    (refuse_processes, "no processes"),
)


@contextlib.contextmanager
def _limited(scene: Scene, processes: Sequence[psutil.Process], what: str) -> Iterator[None]:
    """Let them have as many as they have, or a few more; afterwards as many as before."""
    few = scene.dice.randint(0, 8)
    for process in processes:
        with contextlib.suppress(FileNotFoundError):  # it has ended
            _limit(process, what, few + (fds_of(process.pid) if what == "nofile" else 1))
    yield
    for process in processes:
        _limit(process, what, resource.getrlimit(_LIMITS[what])[1])


def _limit(process: psutil.Process, what: str, limit: int) -> None:
    """Set a soft limit, as the process's own user: not every root may change another's."""
    number = "unlimited" if limit == resource.RLIM_INFINITY else limit
    command = [*as_ordinary_user(), "prlimit", f"--pid={process.pid}", f"--{what}={number}:"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode or not is_running(process), done.stderr
