"""How long after a worker's SIGKILL does its replacement answer?

Sides: aiocluster; gunicorn with aiohttp's worker, as it is and with --preload, which forks workers
from a process that has the app, as aiocluster does (pip install gunicorn aiohttp uvloop); Node's
cluster module with `cluster.on('exit', () => cluster.fork())`, as its documentation shows it (apt
install nodejs). Two apps: the hello app, and one whose module takes a second to import or load.

One worker each: with more, a kernel that prefers the old worker would hide a new one that serves
already, and the figure would be about evenness. A client asks /pid on a new connection every 5 ms,
whether or not the earlier ones were answered (Node leaves some without an answer for ever), and the
clock runs from the SIGKILL to the first answer from a pid not seen before.

aiocluster counts quick deaths as failures and then waits longer before a restart. That is for a
worker that crashes in a loop, not for this question, so every server gets few kills, with its
default settings, and each kill waits until the tree is quiet and some seconds more.
"""

import asyncio
import contextlib
import os
import signal
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from benchmarks import harness, plot, report, sides

ROUNDS = 5
KILLS_A_SERVER = 2
PAUSE = 2.0
ANSWER_TIMEOUT = 20.0
POLL_EVERY = 0.005
# Bounds how many polls a server can leave open.
POLL_TIMEOUT = 3.0
MAX_MILLISECONDS = 50.0


@dataclass(frozen=True, slots=True)
class App:
    name: str
    module: str
    slow: bool


APPS = (
    App("hello", "benchmarks.apps.hello:make_app", slow=False),
    App("1 s to import", "benchmarks.apps.slow_import:make_app", slow=True),
)
# By app, then by side: milliseconds of each kill.
Times = dict[str, dict[str, list[float]]]


def sides_serving(app: App) -> list[harness.Side]:
    return [
        sides.aiocluster(1, app.module),
        sides.gunicorn(1, app.module),
        sides.gunicorn(1, app.module, preload=True),
        sides.node(1, slow=app.slow),
    ]


def measure(names: Sequence[str], rounds: int) -> Times:
    times: Times = {}
    for app in APPS:
        times[app.name] = defaultdict(list)
        compared = [side for side in sides_serving(app) if side.name in names]
        for side in harness.alternated(compared, rounds):
            with harness.running(side) as server:
                times[app.name][side.name] += [_kill_once(server) for _ in range(KILLS_A_SERVER)]
    return times


def _kill_once(server: harness.Server) -> float:
    """Milliseconds from the SIGKILL of the worker to an answer from another pid."""
    time.sleep(PAUSE)
    harness.wait_until_quiet(server)
    victim = int(harness.answer(server.port, "/pid", timeout=ANSWER_TIMEOUT))
    return kill_all(server, {victim})


def kill_all(server: harness.Server, victims: set[int]) -> float:
    """Milliseconds from the SIGKILL of all workers to an answer from another pid."""
    try:
        return uvloop.run(_until_another_answers(server.port, victims)) * 1e3
    except TimeoutError:
        raise harness.BenchmarkFailed(f"{server.side.name}: no new worker") from None


async def _until_another_answers(port: int, victims: set[int]) -> float:
    """Kill them; the seconds until another pid answers."""
    answered: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    async with asyncio.timeout(ANSWER_TIMEOUT):
        polling = asyncio.create_task(_poll(port, victims, answered))
        began = time.perf_counter()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        try:
            return await answered - began
        finally:
            polling.cancel()


async def _poll(port: int, victims: set[int], answered: asyncio.Future[float]) -> None:
    """Ask every POLL_EVERY; set `answered` to the time when a pid that is no victim answers."""
    async with asyncio.TaskGroup() as asking:
        while True:
            asking.create_task(_ask(port, victims, answered))
            await asyncio.sleep(POLL_EVERY)


async def _ask(port: int, victims: set[int], answered: asyncio.Future[float]) -> None:
    # A reset, a refusal and a hang all mean: not yet.
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(POLL_TIMEOUT):
            pid = await _worker_pid(port)
        if pid is not None and pid not in victims and not answered.done():
            answered.set_result(time.perf_counter())


async def _worker_pid(port: int) -> int | None:
    reader, writer = await asyncio.open_connection(harness.HOST, port)
    try:
        writer.write(b"GET /pid HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        return int(body) if head.startswith(b"HTTP/1.1 200 ") else None
    finally:
        writer.transport.abort()


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    names = [side.name for side in harness.present(sides_serving(APPS[0]))]
    times = measure(names, options.rounds)
    figures = [_figure(app, times) for app in APPS]
    _show(names, times, figures)
    return figures


def _figure(app: App, times: Times) -> report.Figure:
    measured = times[app.name].get("aiocluster")
    value = statistics.median(measured) if measured else None
    return report.at_most(f"killed worker replaced, {app.name}", MAX_MILLISECONDS, value, " ms")


def _show(names: Sequence[str], times: Times, figures: Sequence[report.Figure]) -> None:
    rows = [(app.name, *(report.spread(times[app.name][name]) for name in names)) for app in APPS]
    title = "From a worker's SIGKILL to its replacement's answer, ms: median (lowest to highest)"
    report.print_table(title, ("app", *names), rows)
    report.print_figures(figures)
    report.write_json("replace", {"milliseconds": times}, figures)
    medians = {name: [statistics.median(times[app.name][name]) for app in APPS] for name in names}
    groups = [app.name for app in APPS]
    title = "From a worker's SIGKILL to its replacement's answer"
    plot.bars("replace", title, "ms", groups, medians)


if __name__ == "__main__":
    main()
