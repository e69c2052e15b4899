"""How many requests are lost when workers are reloaded, or killed; and for how long is it felt?

Sides, four workers each: aiocluster; gunicorn with aiohttp's worker, uvicorn, granian and hypercorn
(pip install gunicorn aiohttp uvicorn granian hypercorn uvloop); PM2 in cluster mode (npm installs
it into a temporary folder). All are told to reload as their documentation says: HUP to the first
process, and `pm2 reload all`.

The load client is that of tests/chaos, in a process of its own: 32 connections, each of which waits
for its answer before it asks again; an answer must prove which request it is to; nothing is tried
twice. Lost is every request that was refused, reset, cut, not answered in time or answered wrongly.

    reloads   two, and ten, under keep-alive load and with a connection for each request; each
              reload begins when the one before is over: nobody of before lives, all new ones do
    kills     fifty SIGKILLs of a worker, each when the one before has been replaced; then the
              clients that had no answer for HUNG seconds, and the descriptors that the first
              process has more than before, once all is quiet
    replaced  two workers, since uvicorn with one supervises nothing, and both killed at once; from
              there to the answer of another

Every server is started anew for each figure of each round. A figure that a side cannot have, for it
does not reload or does not replace what died, is "never".
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks import harness, replace, report, sides

WORKERS = 4
CONNECTIONS = 32
ROUNDS = 3
RELOADS = (2, 10)
KILLS = 50
# A client without an answer for so long counts as hung; no side works on a request for 1 ms.
HUNG = 10.0
# What a reload may take, and the replacement of a killed worker: granian waits 3.5 s first.
RELOAD_TIMEOUT = 30.0
REPLACE_TIMEOUT = 15.0
SETTLE = 0.3
_MODES = {"keepalive": "keep-alive", "close": "one connection a request"}

TOKEN = "benchmarks.apps.token:make_app"
TOKEN_ASGI = "benchmarks.apps.token_asgi:app"

RELOAD_FIGURES = ("lost", "p99", "gap")
KILL_FIGURES = ("killed", "hung", "leaked")
# What one server showed, by figure; None: never.
Seen = dict[str, float | None]
# By figure, then by side: the value of each round; None: never.
Values = dict[str, dict[str, list[float | None]]]


def compared_sides(workers: int, pm2_home: Path) -> list[harness.Side]:
    return [
        sides.aiocluster(workers, TOKEN),
        sides.gunicorn(workers, TOKEN),
        sides.uvicorn(workers, TOKEN_ASGI),
        sides.granian(workers, TOKEN_ASGI),
        sides.hypercorn(workers, TOKEN_ASGI),
        sides.pm2(workers, pm2_home),
    ]


class LoadClient:
    """The load client's process."""

    def __init__(self, server: harness.Server, connections: dict[str, int]) -> None:
        config = {
            "url": f"http://{harness.HOST}:{server.port}",
            "seed": 1,
            "connections": connections,
            "timeout": HUNG,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.load", json.dumps(config)],
            cwd=harness.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def stop(self) -> dict[str, Any]:
        """Let every client end what it has begun; return what each mode saw."""
        output, _ = self._process.communicate("stop\n", timeout=3 * HUNG)
        modes: dict[str, Any] = json.loads(output)["modes"]
        return modes

    def close(self) -> None:
        """End it. Idempotent."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def loading(server: harness.Server, connections: dict[str, int]) -> Iterator[LoadClient]:
    client = LoadClient(server, connections)
    try:
        time.sleep(1.0)  # it is at work by then, on any machine that can run this
        yield client
        time.sleep(SETTLE)
    finally:
        client.close()


def workers_of(server: harness.Server) -> set[int]:
    """The processes that serve: those at the ends of the tree."""
    found = set()
    for process in psutil.Process(server.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            ends = not process.children() and process.status() != psutil.STATUS_ZOMBIE
            if ends and "resource_tracker" not in " ".join(process.cmdline()):
                found.add(process.pid)
    return found


def ask_to_reload(server: harness.Server, pm2_home: Path) -> None:
    if server.side.name != "PM2":
        os.kill(server.pid, signal.SIGHUP)
        return
    command = [str(sides.pm2_program(pm2_home)), "reload", "all"]
    environment = {**os.environ, **server.side.env}
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False, timeout=60)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Say whether it came true in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            if condition():
                return True
        time.sleep(0.02)
    return False


def reload_once(server: harness.Server, pm2_home: Path) -> bool:
    """Say whether all workers have been replaced."""
    before = workers_of(server)
    ask_to_reload(server, pm2_home)

    def is_over() -> bool:
        now = workers_of(server)
        return not now & before and len(now) >= WORKERS

    return wait_for(is_over, RELOAD_TIMEOUT)


def measure_reloads(mode: str, reloads: int, pm2_home: Path, server: harness.Server) -> Seen:
    """What the clients saw of some reloads, one after the other."""
    with loading(server, {mode: CONNECTIONS}) as client:
        done = all(reload_once(server, pm2_home) for _ in range(reloads))
        time.sleep(SETTLE)
        seen = client.stop()[mode]
    if not done:
        return dict.fromkeys(RELOAD_FIGURES)
    return {
        "lost": float(sum(seen["failures"].values())),
        "p99": seen["p99"] * 1e3,
        "gap": seen["longest_gap"] * 1e3,
    }


def measure_replacement(server: harness.Server) -> Seen:
    """Milliseconds from the SIGKILL of all workers to the answer of another."""
    return {"replaced": replace.kill_all(server, workers_of(server))}


def measure_kills(kills: int, dice: random.Random, server: harness.Server) -> Seen:
    """Clients that hung and descriptors that leaked, after as many SIGKILLs."""
    before = len(os.listdir(f"/proc/{server.pid}/fd"))
    half = CONNECTIONS // 2
    with loading(server, {"keepalive": half, "close": half}) as client:
        done = all(_kill_one(server, dice) for _ in range(kills))
        code = server.process.poll()
        time.sleep(SETTLE)
        seen = client.stop()
    if not done:
        ended = "lives on" if code is None else f"has ended with {code}"
        print(f"{server.side.name}: a killed worker was not replaced; the first process {ended}")
        return dict.fromkeys(KILL_FIGURES)
    harness.wait_until_quiet(server)
    failures = [mode["failures"] for mode in seen.values()]
    return {
        "hung": float(sum(kinds.get("timeout", 0) for kinds in failures)),
        "killed": float(sum(sum(kinds.values()) for kinds in failures)),
        "leaked": float(len(os.listdir(f"/proc/{server.pid}/fd")) - before),
    }


def _kill_one(server: harness.Server, dice: random.Random) -> bool:
    """Kill a worker; say whether there are as many again."""
    if not (workers := workers_of(server)):
        return False
    victim = dice.choice(sorted(workers))
    os.kill(victim, signal.SIGKILL)
    return wait_for(lambda: len(workers_of(server) - {victim}) >= WORKERS, REPLACE_TIMEOUT)


def measure(
    names: Sequence[str], rounds: int, reloads: Sequence[int], kills: int, pm2_home: Path
) -> Values:
    values: Values = defaultdict(lambda: defaultdict(list))
    compared = [side for side in compared_sides(WORKERS, pm2_home) if side.name in names]
    pairs = {side.name: side for side in compared_sides(2, pm2_home)}
    for turn, side in enumerate(harness.alternated(compared, rounds)):
        number = turn // len(compared)
        for mode, title in _MODES.items():
            for count in reloads:
                seen = _attempt(
                    side, RELOAD_FIGURES, partial(measure_reloads, mode, count, pm2_home)
                )
                _put(values, side, f", {count} reloads, {title}", seen)
        # The same victims for each side of a round.
        seen = _attempt(side, KILL_FIGURES, partial(measure_kills, kills, random.Random(number)))
        _put(values, side, f", {kills} kills", seen)
        _put(values, side, "", _attempt(pairs[side.name], ("replaced",), measure_replacement))
        print(f"{side.name}: round {number + 1} done", flush=True)
    return values


def _attempt(
    side: harness.Side, figures: Sequence[str], measured: Callable[[harness.Server], Seen]
) -> Seen:
    """Start the side and measure it; what it cannot do is said, and holds nobody else up."""
    try:
        with harness.running(side) as server:
            return measured(server)
    except harness.BenchmarkFailed as failure:
        print(failure)
        return dict.fromkeys(figures)


def _put(values: Values, side: harness.Side, suffix: str, seen: Seen) -> None:
    for name, value in seen.items():
        values[_TITLES[name] + suffix][side.name].append(value)


_TITLES = {
    "lost": "requests lost",
    "p99": "p99, ms",
    "gap": "longest gap, ms",
    "hung": "clients hung",
    "killed": "requests lost in killed workers",
    "leaked": "descriptors leaked",
    "replaced": "killed workers replaced, ms",
}


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        sides.install_pm2(home)
        names = [side.name for side in harness.present(compared_sides(WORKERS, home))]
        reloads, kills = ((2,), 10) if options.quick else (RELOADS, KILLS)
        values = measure(names, options.rounds, reloads, kills, home)
    figures = [_figure(title, values) for title in values if _is_promised(title)]
    rows = [(title, *(_shown(values[title][name]) for name in names)) for title in values]
    title = "Under reloads and kills: median (lowest to highest round)"
    report.print_table(title, ("", *names), rows)
    report.print_figures(figures)
    report.write_json("reload_loss", {"values": values}, figures)
    return figures


def _is_promised(title: str) -> bool:
    """What aiocluster promises to have none of: a killed worker's requests are lost anywhere."""
    is_time = "ms" in title.split(", ")
    return not is_time and not title.startswith("requests lost in killed")


def _figure(title: str, values: Values) -> report.Figure:
    ours = values[title].get("aiocluster", [])
    known = [value for value in ours if value is not None]
    return report.at_most(title, 0, max(known) if known and len(known) == len(ours) else None)


def _shown(rounds: Sequence[float | None]) -> str:
    known = [value for value in rounds if value is not None]
    if len(known) < len(rounds):
        return f"never, {len(rounds) - len(known)} of {len(rounds)}"
    return report.spread(known) if known else "-"


if __name__ == "__main__":
    main()
