"""How many requests on kept-alive connections are lost when a server is stopped?

Sides, two workers each: aiocluster, gunicorn with aiohttp's worker, uvicorn and granian
(pip install -e '.[bench]'). Each is told to stop as its documentation says: TERM to the first
process.

16 connections are used by a client in a process of its own, until the server ends each of them.
A request is lost when it was sent, and was not answered whole. Nothing is tried twice. Clients
that are hot ask again as soon as they have their answer; the others pause before they do.

The server is started anew for each figure of each round.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence

from benchmarks import harness, report, sides

WORKERS = 2
CONNECTIONS = 16
ROUNDS = 10
# Seconds between an answer and the next request.
PAUSES = (0.0, 0.02, 0.2, 0.9)
# A client may be alone with an answer that never comes for so long; see benchmarks.stop_load.
TIMEOUT = 60.0

# By pause, then by side: the value of each round.
Values = dict[float, dict[str, list[float]]]


def compared_sides() -> list[harness.Side]:
    return [
        sides.aiocluster(WORKERS),
        sides.gunicorn(WORKERS),
        sides.uvicorn(WORKERS),
        sides.granian(WORKERS),
    ]


def stop_under_load(server: harness.Server, pause: float) -> tuple[float, float]:
    """Return how many requests a stop lost, and how many seconds it took."""
    command = [sys.executable, "-m", "benchmarks.stop_load", "--port", str(server.port)]
    command += ["--connections", str(CONNECTIONS), "--pause", str(pause)]
    client = subprocess.Popen(command, cwd=harness.ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout is not None
        if client.stdout.readline() != "warm\n":
            raise harness.BenchmarkFailed(f"{server.side.name}: its load did not begin")
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        server.process.wait(TIMEOUT)
        seconds = time.monotonic() - began
        output, _ = client.communicate(timeout=TIMEOUT)
    finally:
        client.kill()
        client.wait()
    seen = json.loads(output)
    return float(seen.get("lost", 0)), seconds


def measure(compared: Sequence[harness.Side], rounds: int) -> tuple[Values, Values]:
    """Return what was lost, and how long the stops took."""
    lost: Values = defaultdict(lambda: defaultdict(list))
    took: Values = defaultdict(lambda: defaultdict(list))
    for pause in PAUSES:
        for side in harness.alternated(compared, rounds):
            with harness.running(side) as server:
                requests, seconds = stop_under_load(server, pause)
            lost[pause][side.name].append(requests)
            took[pause][side.name].append(seconds)
        print(f"{_called(pause)}: done", flush=True)
    return lost, took


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    compared = harness.present(compared_sides())
    names = [side.name for side in compared]
    lost, took = measure(compared, options.rounds)
    rows = [(f"lost, {_called(p)}", *(_total(lost[p][name]) for name in names)) for p in PAUSES]
    rows += [
        (f"stop, s, {_called(p)}", *(report.spread(took[p][name]) for name in names))
        for p in PAUSES
    ]
    title = f"{options.rounds} stops of {CONNECTIONS} kept-alive connections: requests lost"
    report.print_table(f"{title} in all (fewest to most in one stop)", ("", *names), rows)
    figures = [
        report.at_most(f"requests lost, {_called(pause)}", 0, sum(lost[pause]["aiocluster"]))
        for pause in PAUSES
    ]
    report.print_figures(figures)
    report.write_json("stop_loss", {"lost": lost, "took": took}, figures)
    return figures


def _called(pause: float) -> str:
    return f"a pause of {pause:g} s" if pause else "hot"


def _total(values: Sequence[float]) -> str:
    return f"{sum(values):.0f} ({min(values):.0f} to {max(values):.0f})" if values else "-"


if __name__ == "__main__":
    main()
