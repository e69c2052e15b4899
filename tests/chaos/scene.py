"""A program under load, who its processes are, and what may be said of a run at its end.

async with under_load(tmp_path, dice) as scene:
    scene.kill(scene.some_workers())
    await scene.go_on()
seen = scene.seen
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import psutil

from tests.chaos.client import LoadClient, Seen, load_on
from tests.chaos.trail import Trail
from tests.support.program import Program, is_running, until

_REPOSITORY = Path(__file__).parents[2]

# How long a soak is, as a multiple of what every run of the tests does.
SCALE = int(os.environ.get("AIOCLUSTER_CHAOS_SCALE", "1"))

# Seconds at most of a client between two rounds. A soak asks as fast as it can; other runs leave
# the machine to the tests beside them.
PAUSE = 0.003 if SCALE > 1 else 0.1

WORKERS = 3
CONNECTIONS = {"keepalive": 6, "close": 4, "post": 3, "pipeline": 3, "slow": 3, "websocket": 3}
# Answers that each mode has had between two harms.
ANSWERS = 30 * SCALE

SOURCE = """
import aiocluster
from tests.chaos.app import make_app

async def tell(cluster):
    with open("address", "w") as file:  # its output may lead nowhere
        file.write("http://%s:%d\\n" % cluster.addresses[0])

{more}

if __name__ == "__main__":
    aiocluster.run({app}, on_start={on_start}, **{settings!r})
"""


class Scene:
    """One program, one load client, one pair of dice."""

    def __init__(self, program: Program, load: LoadClient, dice: Random, url: str) -> None:
        self.program = program
        self.load = load
        self.dice = dice
        self.url = url
        self.killed: set[int] = set()
        # From when to when no program served, by the clock of all processes.
        self.absences: list[tuple[float, float]] = []
        self._seen: Seen | None = None

    @property
    def seen(self) -> Seen:
        """What the clients saw; there when the load has stopped."""
        assert self._seen is not None
        return self._seen

    def workers(self) -> list[psutil.Process]:
        """The workers that live, whoever is their parent now."""
        family = psutil.Process(self.program.pid).children(recursive=True)
        # A killed one may take some time to die.
        pids = self.pids_started() - self.killed
        return [process for process in family if process.pid in pids and is_running(process)]

    def zygotes(self) -> list[psutil.Process]:
        """The children of the primary that are no workers."""
        children = psutil.Process(self.program.pid).children()
        started = self.pids_started()
        return [child for child in children if child.pid not in started and is_running(child)]

    def pids_started(self) -> set[int]:
        """The pids of all workers that ever made the app."""
        return {int(line) for line in _lines(self.program.folder / "started")}

    def begun(self) -> Mapping[str, int]:
        """In which worker each request began, by its token."""
        lines = _lines(self.program.folder / "begun")
        return {token: int(pid) for pid, token in (line.split() for line in lines)}

    def some_workers(self) -> list[psutil.Process]:
        """One worker at least, all of them at most."""
        workers = self.workers()
        return self.dice.sample(workers, self.dice.randint(1, len(workers)))

    def kill(self, processes: Iterable[psutil.Process]) -> None:
        """SIGKILL, as the kernel's out-of-memory killer does it."""
        processes = [*processes]
        self.killed |= {process.pid for process in processes}
        send(processes, signal.SIGKILL)

    def everybody(self) -> list[psutil.Process]:
        """The primary first, then all it has started."""
        return [psutil.Process(self.program.pid), *self.program.descendants()]

    async def go_on(self) -> None:
        """Until as many workers as configured live, and every mode has had further answers."""
        await self.complete()
        await self.load.each(ANSWERS)

    async def complete(self) -> None:
        """Until as many workers as configured live."""
        await until(lambda: len(self.workers()) >= WORKERS, "workers are missing")

    async def stop_and_start(self) -> None:
        """TERM to all processes at once, as a service manager sends it; then start the program."""
        everybody = self.everybody()
        self.dice.shuffle(everybody)
        began = time.perf_counter()
        send(everybody, signal.SIGTERM)
        assert await self.program.exit_code() == 0
        assert self.program.left_behind() == []
        (self.program.folder / "address").unlink()
        await self.program.start_again()
        assert await _address(self.program.folder) == self.url
        self.absences.append((began, time.perf_counter()))

    async def end_load(self) -> None:
        """Stop the load; what it saw is there afterwards."""
        self._seen = await self.load.stop()

    async def end(self) -> None:
        """Stop the load, then the program, which must end well."""
        await self.end_load()
        assert await self.program.stop() == 0
        assert self.program.left_behind() == []

    def assert_only_refused_in_absence(self) -> None:
        """Clients were refused while no program served; every other request was answered well."""
        for lost in self.seen.lost:
            assert lost["kind"] == "refused", lost
            assert any(since <= lost["at"] <= until for since, until in self.absences), lost
        assert min(self.seen.answered.values()) > 0

    def assert_nothing_lost(self) -> None:
        """Every request of every mode was answered, and well."""
        assert self.seen.failures == {}, (self.seen.failures, self.seen.lost[:10])
        assert min(self.seen.answered.values()) > 0

    def assert_lost_only_in(self, killed: set[int]) -> None:
        """Requests were cut or reset by the death of their worker; nothing else went wrong."""
        begun, trail = self.begun(), Trail(_lines(self.program.folder / "trail"))
        for lost in self.seen.lost:
            assert lost["kind"] in ("cut", "reset"), lost
            # One that had not begun was on a connection that a killed worker had taken, and may
            # not have come to write that down.
            known = trail.holder(lost["port"], lost["at"], lost["since"])
            worker = begun.get(lost["token"]) or known
            assert worker in killed or (killed and not worker), (lost, worker, killed)
        assert min(self.seen.answered.values()) > 0


@contextlib.asynccontextmanager
async def under_load(
    folder: Path,
    dice: Random,
    *,
    connections: Mapping[str, int] = CONNECTIONS,
    lives: int = 1000,
    program: Program | None = None,
    **settings: Any,
) -> AsyncIterator[Scene]:
    """Run a program and load it; enter when every mode has had answers, end both after."""
    given = program or program_of(folder, **settings)
    async with (
        given as running,
        loaded(running, dice, connections=connections, lives=lives) as scene,
    ):
        await scene.go_on()
        yield scene
        await scene.end()


@contextlib.asynccontextmanager
async def loaded(
    program: Program,
    dice: Random,
    *,
    connections: Mapping[str, int] = CONNECTIONS,
    lives: int = 1000,
) -> AsyncIterator[Scene]:
    """Load a program that runs."""
    url = await _address(program.folder)
    seed = dice.getrandbits(32)
    async with load_on(url, connections, seed, lives=lives, pause=PAUSE) as load:
        yield Scene(program, load, dice, url)


def program_of(
    folder: Path, *, more: str = "", on_start: str = "tell", command: str = "", **settings: Any
) -> Program:
    """The app of the chaos runs. `more` is source; `command` a shell's around the interpreter's.

    More crashes than a service sees in a year are free here: how restarts are delayed is shown
    elsewhere.
    """
    given = {"workers": WORKERS, "bind": "127.0.0.1:0", "max_failures": 1e6, **settings}
    source = SOURCE.format(more=more, app="make_app", on_start=on_start, settings=given)
    shell = ["sh", "-c", command.format(f"{sys.executable} program.py")] if command else None
    # No bytecode: a module written twice in a second would be taken from the first time.
    env = {"PYTHONPATH": str(_REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
    return Program(folder, source, command=shell, env=env)


def suspend(processes: Sequence[psutil.Process]) -> None:
    """SIGSTOP to each."""
    send(processes, signal.SIGSTOP)


def resume(processes: Sequence[psutil.Process]) -> None:
    """SIGCONT to each."""
    send(processes, signal.SIGCONT)


def send(processes: Iterable[psutil.Process], number: int) -> None:
    """Send a signal to each of these that still runs."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


async def paused(seconds: float) -> None:
    """Let time pass, where nothing tells that a client waits for who is stopped."""
    await asyncio.sleep(seconds)


async def _address(folder: Path) -> str:
    """Wait until the program serves; return where."""
    file = folder / "address"
    await until(lambda: bool(_lines(file)) and file.read_text().endswith("\n"), "it does not serve")
    return file.read_text().strip()


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []
