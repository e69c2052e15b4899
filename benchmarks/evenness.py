"""How evenly do connections spread over four workers?

Sides: aiocluster, round robin; gunicorn with aiohttp's worker and uvicorn --workers, where the
kernel decides which worker wakes first (pip install gunicorn aiohttp uvicorn uvloop); Node's
cluster module, round robin (apt install nodejs). Four workers each, on uvloop where it is Python;
uvicorn serves the app written for ASGI. Every answer carries the pid of the worker that gave it, so
what is counted is connections a worker, by the client.

Three loads: 64 connections opened at once and kept, five requests on each; 400 connections one
after the other; 400 in bursts of 50. The figure is max - min over the workers of one server's life,
the highest of all rounds: an uneven minute is not undone by an even one.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import harness, plot, report, sides

WORKERS = 4
ROUNDS = 3
MAX_DIFFERENCE = 1


@dataclass(frozen=True, slots=True)
class Load:
    name: str
    mode: str
    connections: int
    requests: int


LOADS = (
    Load("64 kept alive", "keepalive", 64, 320),
    Load("400 one by one", "close", 1, 400),
    Load("400 in bursts of 50", "burst", 50, 400),
)
# By load, then by side: connections a worker, highest first, one list of each round.
Counts = dict[str, dict[str, list[list[int]]]]


def measure(compared: Sequence[harness.Side], rounds: int) -> Counts:
    counts: Counts = {load.name: defaultdict(list) for load in LOADS}
    for side in harness.alternated(compared, rounds):
        with harness.running(side) as server:
            for load in LOADS:
                harness.wait_until_quiet(server)
                counts[load.name][side.name].append(_by_worker(server, load))
    return counts


def _by_worker(server: harness.Server, load: Load) -> list[int]:
    seen = harness.load(
        server, load.mode, connections=load.connections, requests=load.requests, path="/pid"
    ).bodies
    # A worker that nobody reached answered nothing: it is one of the zeros.
    return sorted([*seen.values(), *[0] * (WORKERS - len(seen))], reverse=True)


def difference(by_worker: Sequence[int]) -> int:
    return max(by_worker) - min(by_worker)


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    compared = harness.present(
        [
            sides.aiocluster(WORKERS),
            sides.gunicorn(WORKERS),
            sides.uvicorn(WORKERS),
            sides.node(WORKERS),
        ]
    )
    counts = measure(compared, options.rounds)
    figures = [_figure(load, counts) for load in LOADS]
    _show(compared, counts, figures)
    return figures


def _figure(load: Load, counts: Counts) -> report.Figure:
    rounds = counts[load.name].get("aiocluster", [])
    worst = max(map(difference, rounds)) if rounds else None
    return report.at_most(f"max - min over workers, {load.name}", MAX_DIFFERENCE, worst)


def _show(
    compared: Sequence[harness.Side], counts: Counts, figures: Sequence[report.Figure]
) -> None:
    names = [side.name for side in compared]
    rows = [(load.name, *(_shown(counts[load.name][name]) for name in names)) for load in LOADS]
    title = "Connections a worker in the worst round, and max - min"
    report.print_table(title, ("", *names), rows)
    report.print_figures(figures)
    report.write_json("evenness", {"connections": counts}, figures)
    medians = {
        name: [statistics.median(map(difference, counts[load.name][name])) for load in LOADS]
        for name in names
    }
    groups = [load.name for load in LOADS]
    title = "Connections over four workers: max - min, median round"
    plot.bars("evenness", title, "connections", groups, medians)


def _shown(rounds: Sequence[Sequence[int]]) -> str:
    worst = max(rounds, key=difference)
    return f"{'/'.join(map(str, worst))}: {difference(worst)}"


if __name__ == "__main__":
    main()
