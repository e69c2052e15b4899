"""An upgrade: another program in the same process, and nobody sees more than a pause."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from aiocluster import ConfigError
from aiocluster.ipc.handover import RECORD
from aiocluster.ipc.messages import PROTOCOL
from tests.support.cluster import serving
from tests.support.program import until
from tests.support.upgrading import Upgradable
from tests.support.wire import Wire

# Seconds: as much as a new program takes to be tried out on a busy machine.
BOOT_TIMEOUT = 12.0


class Load:
    """Clients that ask without a pause, until told to stop; any failure is an exception."""

    def __init__(self, url: str) -> None:
        self.answers = 0
        self.over = False
        self._url = url
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(one()) for one in (self._kept, self._new) * 4]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.over = True
        await asyncio.gather(*self._tasks)

    async def more(self, count: int = 50) -> None:
        """Wait until so many more were answered; raise what a client met."""
        wanted = self.answers + count
        await until(lambda: self.answers >= wanted or self._failed, "answers")
        for task in self._tasks:
            if task.done():
                task.result()

    @property
    def _failed(self) -> bool:
        return any(task.done() for task in self._tasks)

    async def _kept(self) -> None:
        async with Wire(self._url) as wire:
            while not self.over:
                await self._ask(wire)

    async def _new(self) -> None:
        while not self.over:
            async with Wire(self._url) as wire:
                await self._ask(wire)

    async def _ask(self, wire: Wire) -> None:
        await wire.ask(method="POST")
        response = await wire.response()
        assert response.status == 200
        self.answers += 1


async def test_three_upgrades_under_load_lose_nothing(tmp_path: Path) -> None:
    """Not one request fails; process, workers and totals are the same as before."""
    async with Upgradable(tmp_path) as program:
        before = (await program.url(), program.pids())
        async with Load(before[0]) as load:
            for _ in range(3):
                await load.more()
                await program.upgrade()
            await load.more()
        await until(lambda: program.told("totals")[-1][0] >= load.answers, "the last counted")

        assert (await program.url(), program.pids()) == before
        totals = program.told("totals")
        for column in zip(*totals, strict=True):
            assert [*column] == sorted(column)
        assert totals[-1][0] == load.answers
        assert program.told("events").count(["Upgraded"]) == 3
        assert await program.stop() == 0
        assert program.left_behind() == []
        assert "Traceback" not in await program.all_output()


async def test_workers_that_are_older_than_the_boot_timeout_go_on(tmp_path: Path) -> None:
    """They have booted long ago, whatever time has passed since their fork."""
    async with Upgradable(tmp_path, boot_timeout=BOOT_TIMEOUT) as program:
        await program.url()
        before = program.pids()
        # No event tells that they are as old as that.
        await asyncio.sleep(BOOT_TIMEOUT + 0.5)
        await program.upgrade()
        async with Wire(await program.url()) as wire:
            assert (await wire.get("/heard")).status == 200
        assert program.pids() == before
        assert await program.stop() == 0
        assert "boot_timeout" not in await program.all_output()


async def test_messages_arrive_once_and_in_order(tmp_path: Path) -> None:
    """Of every worker, across three upgrades; the window is not used up by them."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        program.write("talk")
        for _ in range(3):
            known = len(program.told("messages"))
            await until(lambda: len(program.told("messages")) > known + 200, "messages")  # noqa: B023
            await program.upgrade()
        (tmp_path / "talk").unlink()
        await until(lambda: sum(last for _, _, last in program.told("messages")) == 2, "the last")

        for worker in (1, 2):
            numbers = [number for one, number, _ in program.told("messages") if one == worker]
            assert numbers == [*range(len(numbers))]
        assert await program.stop() == 0


async def test_what_the_primary_sends_arrives_in_order(tmp_path: Path) -> None:
    """No number is lost; one that was being sent to both at the exec may have reached one."""
    async with Upgradable(tmp_path) as program:
        url = await program.url()
        for _ in range(2):
            async with Wire(url) as wire:
                known = len((await heard(wire))[0])
                while len((await heard(wire))[0]) < known + 50:
                    pass
            await program.upgrade()
        async with Wire(url) as wire:
            said, uptimes = await heard(wire)

        # The one that was under way is sent again by the new program.
        assert sorted({*said}) == [*range(max(said) + 1)]
        assert said == sorted(said)
        assert len(said) - len({*said}) <= 3
        assert uptimes == sorted(uptimes)
        assert len(uptimes) > 1
        assert await program.stop() == 0


async def heard(wire: Wire) -> tuple[list[int], list[float]]:
    """Return what a worker has heard: messages, and the uptime in its snapshots."""
    said, uptimes = json.loads((await wire.get("/heard")).body)
    return said, uptimes


async def test_new_settings_take_effect(tmp_path: Path) -> None:
    """In the primary at once; what only a start can change is told."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        program.release(graceful_timeout=17, workers=3, bind="127.0.0.1:1")
        await program.upgrade()
        await program.line("workers stays 2: to make it 3 takes a stop and a start")
        await program.line("bind stays .'127.0.0.1:0'.: to make it")
        assert await program.who() in program.pids()
        program.send_signal(signal.SIGTERM)
        await program.line("stopping, within 20 s")
        assert await program.exit_code() == 0


# What a program begins with, and the cause that is told.
BAD_PROGRAMS = {
    "MORE = {'graceful_timeout': -5}": "graceful_timeout: -5 is not allowed",
    "MORE = {'backlog': -1}": "backlog: -1 is not allowed",
    "no Python at all": "SyntaxError: invalid syntax",
    "import no_such_module": "ModuleNotFoundError: No module named 'no_such_module'",
    "raise SystemExit('no config file')": "no config file",
    "import sys; sys.exit()": "ended before it called aiocluster.run",
    "import os; os._exit(9)": "ended before it called aiocluster.run",
    "import aiocluster.ipc.messages as m; m.PROTOCOL = 99": f"protocol 99 and {PROTOCOL}",
    "import aiocluster.ipc.handover as e; e.RECORD = 99": f"record 99 and {RECORD}",
}

# Of which file, and the cause that is told.
BAD_MODULES = {
    ("app.py", "raise OSError('no database')"): "OSError: no database",
    ("app.py", ""): "module 'app' has no 'make_app'",
    ("hook.py", "import nothing_here"): "No module named 'nothing_here'",
}


async def test_a_program_that_does_not_start_changes_nothing(tmp_path: Path) -> None:
    """The cause is told, in the log and by an event, and a good one comes afterwards."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        before = program.pids()

        async def changes_nothing(cause: str) -> None:
            told = len(program.told("events"))
            assert cause in await program.fails_to_upgrade()
            assert await program.who() in before
            assert program.pids() == before
            assert ["UpgradeFailed"] in program.told("events")[told:], cause

        for extra, cause in BAD_PROGRAMS.items():
            program.release(extra)
            await changes_nothing(cause)
        program.release()
        for (file, text), cause in BAD_MODULES.items():
            good = (tmp_path / file).read_text()
            program.write(file, text)
            await changes_nothing(cause)
            program.write(file, good)

        await program.upgrade()
        assert program.pids() == before
        assert await program.stop() == 0
        assert program.left_behind() == []


async def test_a_program_that_takes_too_long_changes_nothing(tmp_path: Path) -> None:
    """It has boot_timeout, and is ended after that."""
    async with Upgradable(tmp_path, boot_timeout=BOOT_TIMEOUT) as program:
        await program.url()
        before = program.pids()
        program.release("import time; time.sleep(99)")
        assert "took longer than 12 s" in await program.fails_to_upgrade()
        assert program.pids() == before
        assert await program.stop() == 0
        assert program.left_behind() == []


# Runs in the new program before anything else.
AT_ONCE = """
import os, signal
if os.environ.get("AIOCLUSTER_SUCCESSION", "").startswith("heir"):
    {what}
"""


async def test_a_worker_that_dies_during_the_exec_is_replaced(tmp_path: Path) -> None:
    """Its death is seen by the new program, which tells it and fills the slot."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        victim = min(program.pids())
        program.release(AT_ONCE.format(what=f"os.kill({victim}, signal.SIGKILL)"))
        await program.upgrade()
        await program.line(rf"worker \d \(pid {victim}\) was killed by signal 9")
        await program.line("worker 3 .* is ready")
        assert {await program.who(), await program.who()} == program.pids()
        assert await program.stop() == 0
        assert program.left_behind() == []


async def test_a_zygote_that_dies_during_the_exec_is_replaced(tmp_path: Path) -> None:
    """The workers live on, and get a new one."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        before = program.pids()
        zygote = program.zygote().pid
        program.release(AT_ONCE.format(what=f"os.kill({zygote}, signal.SIGKILL)"))
        await program.upgrade()
        await program.line("the zygote .* is gone; starting a new one, workers go on")
        assert await program.who() in before
        os.kill(min(before), signal.SIGKILL)
        await program.line("worker 3 .* is ready")
        assert await program.stop() == 0
        assert program.left_behind() == []


async def test_term_during_the_exec_stops_gracefully(tmp_path: Path) -> None:
    """A request that had begun is answered."""
    async with Upgradable(tmp_path) as program, Wire(await program.url()) as wire:
        await wire.ask("/hold")
        await program.until_exists("holding")
        program.release(AT_ONCE.format(what="os.kill(os.getpid(), signal.SIGTERM)"))
        await program.upgrade()
        await program.line("stopping")
        program.write("release")
        assert (await wire.response()).body == b"held"
        assert await program.exit_code() == 0
        assert program.left_behind() == []


async def test_a_draining_worker_finishes_what_it_has(tmp_path: Path) -> None:
    """Its request, and within its deadline; its successor is another program's."""
    async with Upgradable(tmp_path) as program, Wire(await program.url()) as wire:
        draining = int((await wire.get()).body)
        await wire.ask("/hold")
        await program.until_exists("holding")
        os.kill(draining, signal.SIGTERM)
        await program.line("worker 1 .* is ready")
        await until(lambda: ["WorkerDisconnected"] not in program.told("events"), "it drains")
        await program.upgrade()
        await program.upgrade()
        program.write("release")
        assert (await wire.response()).body == b"held"
        await program.line(rf"pid {draining}\) exited with code 0 \(drain\)")
        await program.line("worker 3 .* is ready")
        assert await program.stop() == 0


async def test_upgrade_then_reload_then_stop(tmp_path: Path) -> None:
    """The adopted zygote and workers go like any other, and nothing is left of them."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        before = program.pids()
        await program.upgrade()
        program.send_signal(signal.SIGHUP)
        await program.line("generation 2 serves")
        await until(lambda: len(program.descendants()) == 3, "the old ones gone")
        assert not before & program.pids()
        await program.upgrade()
        assert await program.stop() == 0
        assert program.left_behind() == []


async def test_an_upgrade_waits_for_the_reload(tmp_path: Path) -> None:
    """Both are done, one after the other."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        program.send_signal(signal.SIGHUP)
        await program.line("reload: importing")
        program.send_signal(signal.SIGRTMIN)
        await program.line("this program goes on with 2 workers")
        assert "generation 2 serves" in program.output
        assert await program.stop() == 0


async def test_a_reload_asked_for_meanwhile_is_not_forgotten(tmp_path: Path) -> None:
    """The new program does it."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        before = program.pids()
        program.send_signal(signal.SIGRTMIN)
        await program.line("trying the new program")
        program.send_signal(signal.SIGHUP)
        await program.line("generation 2 serves")
        assert "this program goes on with 2 workers" in program.output
        assert not before & {await program.who(), await program.who()}
        assert await program.stop() == 0


async def test_a_signal_to_all_processes_upgrades_the_primary_alone(tmp_path: Path) -> None:
    """As `pkill -RTMIN` sends it."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        before = {process.pid for process in program.descendants()}
        program.signal_group(signal.SIGRTMIN)
        await program.line("this program goes on with 2 workers")
        assert await program.who() in program.pids()
        assert {process.pid for process in program.descendants()} == before
        assert await program.stop() == 0


async def test_a_stop_ends_the_trial(tmp_path: Path) -> None:
    """At once, and nothing is left of it."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        program.release("import pathlib, time; pathlib.Path('tried').touch(); time.sleep(99)")
        program.send_signal(signal.SIGRTMIN)
        await program.until_exists("tried")
        assert await program.stop() == 0
        assert program.left_behind() == []
        assert "goes on with" not in program.output


async def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    """Neither in the primary, after three upgrades, nor in a worker forked after them."""
    async with Upgradable(tmp_path) as program:
        await program.url()
        await program.upgrade()
        before = (open_by(program.pid, tmp_path), open_by(min(program.pids()), tmp_path))
        for _ in range(3):
            await program.upgrade()
        program.send_signal(signal.SIGHUP)
        await program.line("generation 2 serves")

        def now() -> tuple[int, int]:
            return open_by(program.pid, tmp_path), open_by(min(program.pids()), tmp_path)

        await until(lambda: len(program.descendants()) == 3, "the old ones gone")
        await until(lambda: now() == before, f"descriptors: {before}")
        assert await program.stop() == 0


def open_by(pid: int, folder: Path) -> int:
    """Return how many descriptors a process has, but for its files in the folder."""
    fds = [os.path.realpath(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    return len([fd for fd in fds if not fd.startswith(str(folder))])


LIVE = """
from aiohttp import web
async def pid(request):
    import os
    return web.Response(text=str(os.getpid()))
app = web.Application()
app.router.add_get("/", pid)
"""


async def test_a_live_application_is_upgraded(tmp_path: Path) -> None:
    """The workers keep the one they have."""
    program = Upgradable(tmp_path)
    program.app, program.on_start = "app", "None"
    program.release(LIVE)
    async with program:
        await program.url()
        before = program.pids()
        await program.upgrade()
        assert await program.who() in before
        assert await program.stop() == 0


async def test_the_command_is_upgraded(tmp_path: Path) -> None:
    """`aiocluster run app:make_app`."""
    program = Upgradable(tmp_path)
    command = str(Path(sys.executable).with_name("aiocluster"))
    program._command = [command, "run", "app:make_app", "-w", "2", "-b", "127.0.0.1:0"]
    program._command = [*program._command, "--on-start", "hook:on_start"]
    async with program:
        await program.url()
        before = program.pids()
        await program.upgrade()
        assert await program.who() in before
        assert await program.stop() == 0


async def test_a_worker_that_does_not_read_stays_what_it_is(tmp_path: Path) -> None:
    """It is stopped before the upgrade, and goes on after it with all that was sent to it."""
    async with Upgradable(tmp_path) as program, Wire(await program.url()) as wire:
        stopped = int((await wire.get()).body)
        os.kill(stopped, signal.SIGSTOP)
        await wire.ask("/heard")
        sent = len(program.told("sent"))
        await until(lambda: len(program.told("sent")) > sent + 20, "it is sent more")
        # Not so much that it does not fit into the kernel's buffer: that would be unrest.
        (tmp_path / "pause").touch()
        await program.upgrade()
        (tmp_path / "pause").unlink()
        sent = len(program.told("sent"))
        await until(lambda: len(program.told("sent")) > sent + 20, "the hook goes on")
        os.kill(stopped, signal.SIGCONT)
        await wire.response()
        while len((await heard(wire))[0]) < sent:
            pass
        said, _ = await heard(wire)
        assert sorted({*said}) == [*range(max(said) + 1)]
        assert stopped in program.pids()
        assert await program.stop() == 0


async def test_a_cluster_in_a_loop_cannot_be_upgraded() -> None:
    """Its program is the user's."""
    async with serving(workers=1) as (cluster, _):
        with pytest.raises(ConfigError, match=r"start the cluster with aiocluster\.run"):
            await cluster.upgrade()


async def test_what_cannot_be_taken_over_ends_with_3(tmp_path: Path) -> None:
    """A request that had begun is answered by its worker; then nothing is left."""
    async with Upgradable(tmp_path) as program, Wire(await program.url()) as wire:
        await wire.ask("/hold")
        await program.until_exists("holding")
        broken = "import aiocluster.primary.handover as h; h.Handover.adopt = None"
        program.release(AT_ONCE.format(what=broken))
        program.send_signal(signal.SIGRTMIN)
        await program.line("could not go on after the upgrade: leaving")
        program.write("release")
        assert (await wire.response()).body == b"held"
        assert await program.exit_code() == 3
        await until(lambda: program.left_behind() == [], "all are gone")
