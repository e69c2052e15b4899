"""From the fork to an exit code: in processes of their own, with the test as their primary."""

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from aiocluster.ipc.handoff import handoff_pair
from aiocluster.ipc.messages import BootFailed, Drain, DrainRequest, Message, Online, Ready
from aiocluster.ipc.scoreboard import REQUESTS_BEGUN, Scoreboard, open_row
from aiocluster.ipc.stacks import StackFile
from tests.support.waiting import soon, turns
from tests.support.workers import FarEnd

PROGRAM = """
import asyncio, atexit, os, random, signal, socket, sys, time
import uvloop
from aiohttp import web
from aiocluster.config.settings import settings_from
from aiocluster.ipc.hangup import ImportStopped
from aiocluster.ipc.messages import Fork
from aiocluster.worker.bootstrap import Worker
from aiocluster.worker.api.context import current_worker, is_worker
from aiocluster.worker.process_exit import run_exit_hooks
from aiocluster.zygote.server import flush_output

handoff, channel, board, stacks, row = map(int, sys.argv[1:6])
{app}
fork = Fork(7, 2, "web", 1, row, [2], {{"ROLE": "cron"}})
sockets = (socket.socket(fileno=handoff), socket.socket(fileno=channel))
atexit.register(lambda: print("atexit"))
worker, code = Worker(fork, sockets, (board, stacks)), 0
try:
    with worker.importing():
        try:
            app = ({load})()
            given = lambda: app
        except ImportStopped:
            raise
        except BaseException as raised:
            error = raised
            def given(): raise error
    code = worker.run(given, settings_from({settings}), ({loop})())
except ImportStopped:
    pass
run_exit_hooks()
flush_output()
os._exit(code)
"""

PLAIN = """
def make_app():
    worker = current_worker()
    print(os.environ["ROLE"], is_worker(), worker.id, worker.slot, worker.role)
    return web.Application()
"""

ONCE_READY = """
async def once_ready(act):
    while not current_worker().is_ready:
        await asyncio.sleep(0.001)
    asyncio.get_running_loop().call_soon(act)
"""

BLOCKED = """
async def block(app):
    app["task"] = asyncio.create_task(once_ready(lambda: time.sleep(1000)))

def make_app():
    app = web.Application()
    app.on_startup.append(block)
    return app
"""

EXITING = """
async def leave(app):
    app["task"] = asyncio.create_task(once_ready(lambda: sys.exit({given})))

def make_app():
    app = web.Application()
    app.on_startup.append(leave)
    return app
"""


class Stage:
    """Workers and their primary."""

    def __init__(self) -> None:
        self.scoreboard = Scoreboard()
        self.row = self.scoreboard.claim()
        self.stacks = StackFile()
        self.primary = FarEnd()
        self.started: list[Process] = []

    async def start(
        self, app: str, load: str = "lambda: make_app", loop: str = "uvloop.Loop", **settings: Any
    ) -> Process:
        ours, theirs = socket.socketpair()
        sender, receiver = handoff_pair()
        # uvloop's children run the hooks of a fork, and are to have this one.
        receiver = socket.socket(fileno=receiver.detach())
        await self.primary.open(ours)
        fds = (receiver.fileno(), theirs.fileno(), self.scoreboard.fd, self.stacks.fd)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM.format(app=ONCE_READY + app, load=load, loop=loop, settings=settings),
            *map(str, (*fds, self.row)),
            pass_fds=fds,
            stdout=PIPE,
            stderr=PIPE,
        )
        theirs.close()
        receiver.close()
        self._sender = sender
        self.started.append(process)
        return process

    async def hear(self, kind: type[Message]) -> Any:
        while not isinstance(message := await self.primary.hear(), kind):
            continue
        return message

    async def close(self) -> None:
        for process in self.started:
            if process.returncode is None:
                process.kill()
                await process.communicate()
            process._transport.close()  # type: ignore[attr-defined]
        self.primary.channel.abort()
        self._sender.close()
        self.scoreboard.close()
        self.stacks.close()
        await turns()


async def end(process: Process) -> tuple[int | None, str, str]:
    """Return exit code, output and errors."""
    output, errors = await soon(process.communicate())
    return process.returncode, output.decode(), errors.decode()


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    yield stage
    await stage.close()


async def test_a_worker_runs_until_it_is_drained(stage: Stage) -> None:
    """It knows who it is, writes to its row, and its exit hooks run."""
    process = await stage.start(PLAIN)
    await stage.hear(Online)
    await stage.hear(Ready)
    row = open_row(stage.scoreboard.fd, stage.row)
    assert row[REQUESTS_BEGUN] == 0
    stage.primary.channel.post(Drain(10.0, moving=False))

    assert await end(process) == (0, "cron True 7 2 web\natexit\n", "")


async def test_a_worker_whose_primary_is_gone_ends(stage: Stage) -> None:
    """EOF on the channel is all it takes."""
    process = await stage.start(PLAIN)
    await stage.hear(Ready)
    stage.primary.channel.abort()

    code, output, _ = await end(process)

    assert (code, output.endswith("atexit\n")) == (0, True)


async def test_term_makes_a_worker_ask_to_drain(stage: Stage) -> None:
    """The primary decides; told to drain, it ends with 0."""
    process = await stage.start(PLAIN)
    await stage.hear(Ready)
    process.send_signal(signal.SIGTERM)

    assert await stage.hear(DrainRequest) == DrainRequest("drain")
    stage.primary.channel.post(Drain(10.0, moving=False))
    assert (await end(process))[0] == 0


# No thread is to be had, and the app has its own use of the timer.
LIMITED = """
import threading
def no_thread(thread):
    raise RuntimeError("can't start new thread")

async def limit(app):
    threading.Thread.start = no_thread
    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.setitimer(signal.ITIMER_REAL, 1000.0, 500.0)
    yield
    # Heard, it is the app's again.
    print(signal.getsignal(signal.SIGALRM) not in (None, signal.SIG_DFL))
    print(*(int(seconds) // 100 for seconds in signal.getitimer(signal.ITIMER_REAL)))

def make_app():
    app = web.Application()
    app.cleanup_ctx.append(limit)
    return app
"""


async def test_term_is_heard_where_no_thread_is_to_be_had(stage: Stage) -> None:
    """The kernel's timer watches that it is heard, and is then again as the app had set it."""
    process = await stage.start(LIMITED)
    await stage.hear(Ready)
    process.send_signal(signal.SIGTERM)

    assert await stage.hear(DrainRequest) == DrainRequest("drain")
    stage.primary.channel.post(Drain(10.0, moving=False))
    assert await end(process) == (0, "True\n9 5\natexit\n", "")


FULL = """
import resource
held = []

def fill():
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    size = 2**20
    while size > 16:
        try:
            held.append(bytearray(size))
        except MemoryError:
            size //= 2
    os.write(1, b"full\\n")

async def run_full(app):
    app["task"] = asyncio.create_task(once_ready(fill))

def make_app():
    app = web.Application()
    app.on_startup.append(run_full)
    return app
"""


async def test_term_is_heard_where_no_memory_is_to_be_had(stage: Stage) -> None:
    """At the limit of its address space it gives back what it has kept for that."""
    process = await stage.start(FULL)
    assert process.stdout is not None
    assert await soon(process.stdout.readline()) == b"full\n"
    process.send_signal(signal.SIGTERM)

    assert await stage.hear(DrainRequest) == DrainRequest("drain")
    stage.primary.channel.post(Drain(10.0, moving=False))
    assert (await end(process))[:2] == (0, "atexit\n")


async def test_two_terms_before_the_loop_turns_are_one(stage: Stage) -> None:
    """A worker that is busy for a moment does not die of the second."""
    twice = "[os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]"
    process = await stage.start(BLOCKED.replace("time.sleep(1000)", twice))

    await stage.hear(Ready)
    assert await stage.hear(DrainRequest) == DrainRequest("drain")
    stage.primary.channel.post(Drain(10.0, moving=False))
    assert (await end(process))[0] == 0


@pytest.mark.parametrize("meanwhile", ["", "signal.setitimer(0, 0), time.sleep(1.1), term(),"])
async def test_a_blocked_worker_dies_of_term_after_a_grace(stage: Stage, meanwhile: str) -> None:
    """A loop that does not hear TERM within a second never will.

    A handler that only the loop hears would make it immune. Where the app has stopped the timer,
    another TERM ends the worker.
    """
    block = f"(term(), {meanwhile} time.sleep(1000))"
    app = BLOCKED.replace("time.sleep(1000)", block)
    process = await stage.start("def term(): os.kill(os.getpid(), signal.SIGTERM)\n" + app)
    await stage.hear(Ready)

    assert (await end(process))[0] == -signal.SIGTERM


async def test_a_blocked_worker_that_is_to_drain_does_not_die_of_term(stage: Stage) -> None:
    """Its primary has set it a deadline, and a stop sends TERM to all: it finishes."""
    process = await stage.start(BLOCKED.replace("time.sleep(1000)", "time.sleep(2.5)"))
    await stage.hear(Ready)
    stage.scoreboard.order_drain(stage.row)
    stage.primary.channel.post(Drain(1000.0, moving=False))
    for delay in (0.3, 0.5):
        asyncio.get_running_loop().call_later(delay, process.send_signal, signal.SIGTERM)

    assert (await end(process))[0] == 0


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        ("sys.exit(7)", 7, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('no database')", 1, ": no database"),
        ("exec('raise KeyboardInterrupt')", 0, ""),
        ("exec('raise web.GracefulExit')", 0, ""),
    ],
)
async def test_a_factory_that_exits_has_failed_to_start(
    stage: Stage, raised: str, code: int, said: str
) -> None:
    """Told to the primary, with the code that run_app would end with, so that it is told once."""
    process = await stage.start(f"def make_app(): {raised}")

    failed = await stage.hear(BootFailed)

    assert failed == BootFailed(f"the app exited with code {code} before it served{said}", "", code)
    stage.primary.channel.abort()
    assert await end(process) == (3, "atexit\n", "")


@pytest.mark.parametrize(
    ("given", "code", "error"),
    [("7", 7, ""), ("", 0, ""), ("None", 0, ""), ("'no database'", 1, "no database\n")],
)
async def test_sys_exit_in_a_running_app_is_the_exit_code(
    stage: Stage, given: str, code: int, error: str
) -> None:
    """As it would be in a program of its own, once it is drained; the exit hooks run."""
    process = await stage.start(EXITING.format(given=given))
    await stage.hear(Ready)

    assert await stage.hear(DrainRequest) == DrainRequest("crash" if code else "exit")
    stage.primary.channel.post(Drain(10.0, moving=False))
    assert await end(process) == (code, "atexit\n", error)


REFUSED = """
import aiocluster.ipc.scoreboard
import aiocluster.worker.bootstrap
import aiocluster.worker.runtime

def refuse(*_, **__):
    raise OSError(24, "Too many open files")

{} = refuse
"""


@pytest.mark.parametrize(
    "what",
    [
        "aiocluster.ipc.scoreboard.mmap.mmap",
        "aiocluster.worker.bootstrap.check_fds_left",
        "uvloop.new_event_loop",
        "aiocluster.worker.runtime.Acceptor",
        "aiocluster.worker.runtime.open_channel",
        "aiocluster.worker.bootstrap.show_stacks_on_request",
    ],
)
async def test_what_the_kernel_refuses_a_worker_is_told_to_the_primary(
    stage: Stage, what: str
) -> None:
    """Which says it once for all workers, whether there is a loop or not."""
    process = await stage.start(PLAIN + REFUSED.format(what), loop="type(None)")

    failed = await stage.hear(BootFailed)

    assert failed.cause.startswith("the kernel refused what a worker needs: Too many open files; l")
    assert failed.traceback == ""
    stage.primary.channel.abort()
    assert await end(process) == (3, "atexit\n", "")


async def test_a_boot_failure_ends_with_3(stage: Stage) -> None:
    """The code that says: another try will not help."""
    process = await stage.start("def make_app(): return 17")

    assert (await end(process))[0] == 3


# ---- the import, before the loop


IMPORT = """
def load():
    {does}
    return web.Application()
"""


async def test_the_import_may_run_loops_of_its_own(stage: Stage) -> None:
    """As in the zygote: the worker's own does not run yet, and Online comes after the import."""
    does = "asyncio.run(asyncio.sleep(0)); print('imported', is_worker(), current_worker())"
    process = await stage.start(IMPORT.format(does=does), "load")
    await stage.hear(Online)
    await stage.hear(Ready)
    stage.primary.channel.post(Drain(10.0, moving=False))

    assert await end(process) == (0, "imported False None\natexit\n", "")


async def test_a_worker_runs_on_the_loop_that_it_is_given(stage: Stage) -> None:
    """The one that the import made, with what that has bound to it."""
    app = (
        "made = []\n"
        "def load():\n"
        "    made.append(uvloop.new_event_loop())\n"
        "    made.append(made[0].create_future())\n"
        "    return make_app\n"
        "async def make_app():\n"
        "    made[0].call_soon(made[1].set_result, 'bound')\n"
        "    print(await made[1], asyncio.get_running_loop() is made[0])\n"
        "    return web.Application()\n"
    )
    process = await stage.start(app, "load", "lambda: made[0]")
    await stage.hear(Ready)
    stage.primary.channel.post(Drain(10.0, moving=False))

    assert await end(process) == (0, "bound True\natexit\n", "")


async def test_an_import_that_fails_is_told_with_its_traceback(stage: Stage) -> None:
    """Over the channel, though there was no loop when it failed."""
    process = await stage.start(IMPORT.format(does="raise ValueError('no database')"), "load")

    failed = await stage.hear(BootFailed)

    assert failed.cause == "ValueError: no database"
    assert "in load" in failed.traceback
    stage.primary.channel.abort()
    assert await end(process) == (3, "atexit\n", "")


IMPORTING = "os.write(1, b'importing\\n'); {waits}"
# It says so from inside the loop: a signal while a loop is made is printed by Python itself.
RUNS_LOOP = (
    "loop = {made}; loop.call_later(0.01, os.write, 1, b'importing\\n');"
    " loop.run_until_complete(asyncio.sleep(1000))"
)

IMPORTS = {
    "sleeps": IMPORTING.format(waits="time.sleep(1000)"),
    "runs a loop": RUNS_LOOP.format(made="asyncio.new_event_loop()"),
    "runs a loop of uvloop": RUNS_LOOP.format(made="uvloop.new_event_loop()"),
    "computes": IMPORTING.format(waits="[None for _ in iter(int, 1)]"),
    "has a handler for INT": IMPORTING.format(
        waits="signal.signal(signal.SIGINT, signal.default_int_handler); time.sleep(1000)"
    ),
}


@pytest.mark.parametrize("what", IMPORTS)
async def test_a_term_ends_a_worker_that_imports(stage: Stage, what: str) -> None:
    """At once and with 0, since it has begun nothing; its exit hooks run."""
    process = await stage.start(IMPORT.format(does=IMPORTS[what]), "load")
    assert process.stdout is not None
    assert await soon(process.stdout.readline()) == b"importing\n"
    process.send_signal(signal.SIGTERM)

    code, output, errors = await end(process)

    assert (code, output) == (0, "atexit\n")
    assert "Traceback" not in errors


async def test_a_term_while_exit_hooks_run_changes_nothing(stage: Stage) -> None:
    """A service manager may send it to all, after the primary has."""
    does = IMPORTING.format(
        waits="atexit.register(os.kill, os.getpid(), signal.SIGTERM); time.sleep(1000)"
    )
    process = await stage.start(IMPORT.format(does=does), "load")
    assert process.stdout is not None
    assert await soon(process.stdout.readline()) == b"importing\n"
    process.send_signal(signal.SIGTERM)

    assert await end(process) == (0, "atexit\n", "")


async def test_a_process_that_the_import_forked_dies_of_a_term(stage: Stage) -> None:
    """It has the worker's handler by the fork, and is no worker."""
    does = (
        "read, write = os.pipe()\n"
        "    pid = os.fork()\n"
        "    if pid == 0: os.write(write, b'.'); time.sleep(1000)\n"
        "    os.read(read, 1); os.kill(pid, signal.SIGTERM)\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    process = await stage.start(IMPORT.format(does=does), "load")
    await stage.hear(Ready)
    stage.primary.channel.post(Drain(10.0, moving=False))

    assert await end(process) == (0, f"{-signal.SIGTERM}\natexit\n", "")


async def test_generators_are_seeded_after_the_import(stage: Stage) -> None:
    """Also one that a module has set to a fixed state; numpy's only if it is imported."""
    does = (
        "random.seed(7); print(random.random(), 'numpy' in sys.modules)\n"
        "    sys.modules['numpy.random'] = type(sys)('numpy.random')\n"
        "    sys.modules['numpy.random'].seed = lambda: print('seeded')"
    )
    factory = IMPORT.format(does=does).replace("web.Application()", "make_app") + (
        "def make_app():\n"
        "    print(random.random() != random.Random(7).random())\n"
        "    return web.Application()\n"
    )
    process = await stage.start(factory, "load")
    await stage.hear(Ready)
    stage.primary.channel.post(Drain(10.0, moving=False))

    code, output, _ = await end(process)

    assert code == 0
    assert output.splitlines() == [f"{Random(7).random()} False", "seeded", "True", "atexit"]


JOB = """
async def make_app(worker):
    print("job of", worker.role, worker.id)
    {ends}
"""


@pytest.mark.parametrize(
    ("ends", "code", "said"),
    [
        ("sys.exit(7)", 7, ""),
        ("await asyncio.sleep(0); sys.exit(7)", 7, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit('out of luck')", 1, "out of luck"),
        ("raise KeyboardInterrupt", 0, ""),
        ("raise web.GracefulExit", 0, ""),
        ("asyncio.get_running_loop().call_soon(sys.exit, 7); await worker.stopping()", 7, ""),
    ],
)
async def test_a_job_may_exit(stage: Stage, ends: str, code: int, said: str) -> None:
    """By itself or in a callback: the worker drains, and has the code that it gives."""
    process = await stage.start(JOB.format(ends=ends))
    assert await stage.hear(DrainRequest) == DrainRequest("crash" if code else "exit")
    stage.primary.channel.post(Drain(10.0, moving=False))

    returncode, output, errors = await end(process)

    assert returncode == code
    assert output == "job of web 7\natexit\n"
    assert said in errors
    assert "never retrieved" not in errors


async def test_a_job_that_raises_ends_its_worker_with_1(stage: Stage) -> None:
    """At once, and the log says what it was."""
    process = await stage.start(JOB.format(ends="raise LookupError('no such queue')"))

    returncode, output, errors = await end(process)

    assert (returncode, output) == (1, "job of web 7\natexit\n")
    assert "LookupError: no such queue" in errors


async def test_a_job_that_returns_ends_its_worker_with_0(stage: Stage) -> None:
    """Once the primary, who was asked, has said so."""
    process = await stage.start(JOB.format(ends="await asyncio.sleep(0)"))
    assert await stage.hear(DrainRequest) == DrainRequest("finished")
    stage.primary.channel.post(Drain(10.0, moving=False))

    assert await end(process) == (0, "job of web 7\natexit\n", "")


LEFT = """
import os, threading

async def wait():
    try:
        await asyncio.Event().wait()
    finally:
        os.write(1, b"task ended\\n")

async def clean_up(app):
    threading.Thread(target={target}, name="flusher").start()

def make_app():
    app = web.Application()
    app["task"] = asyncio.ensure_future(wait())
    app.on_cleanup.append(clean_up)
    return app
"""


async def test_tasks_and_threads_that_are_left_end_before_the_exit_hooks(stage: Stage) -> None:
    """Tasks are cancelled, threads are waited for."""
    process = await stage.start(LEFT.format(target="lambda: os.write(1, b'flushed\\n')"))
    await stage.hear(Ready)
    stage.primary.channel.post(Drain(1000.0, moving=False))

    code, output, errors = await end(process)

    assert (code, errors) == (0, "")
    assert sorted(output.splitlines()[:-1]) == ["flushed", "task ended"]
    assert output.endswith("atexit\n")


async def test_a_task_that_is_left_may_exit_when_it_is_cancelled(stage: Stage) -> None:
    """With the code that `web.run_app` would end with."""
    left = LEFT.replace('os.write(1, b"task ended\\n")', "sys.exit(9)")
    process = await stage.start(left.format(target="lambda: None"))
    await stage.hear(Ready)
    stage.primary.channel.post(Drain(1000.0, moving=False))

    code, output, errors = await end(process)

    assert (code, output) == (9, "atexit\n")
    assert "Traceback" not in errors


async def test_a_thread_that_does_not_end_is_left_and_named(stage: Stage) -> None:
    """The process ends when the drain's time is over; the exit hooks run."""
    process = await stage.start(LEFT.format(target="threading.Event().wait"))
    await stage.hear(Ready)
    stage.primary.channel.post(Drain(0.0, moving=False))

    code, output, errors = await end(process)

    assert (code, output) == (1, "task ended\natexit\n")
    assert "threads run on: flusher" in errors
