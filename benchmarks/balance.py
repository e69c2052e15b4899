"""What do throughput and p99 owe to how connections are spread?

Sides, two workers each: aiocluster with round robin (the default) and with least_connections;
gunicorn with aiohttp's worker, uvicorn --workers and granian, where the kernel decides which worker
wakes first (pip install gunicorn aiohttp uvicorn granian uvloop); Node's cluster module, round
robin (apt install nodejs). All serve a request that uses 5 ms of CPU (benchmarks/apps/work.py),
which is so much more than a server's own cost that what is left between the sides is how they
spread connections.

16 keep-alive connections are opened at once, and the clock starts when each has had an answer, so
neither opening them nor starting up counts. From there all of them ask without a pause until
1,000 requests are answered. A worker that has more connections than the other answers each of its
clients later, for as long as they stay; one that has none leaves its CPU idle.

How a peer spreads 16 connections is luck, and it is drawn once a server's life: each round starts
every side anew, and beside the median stand the best and the worst start. Two workers and the
client need three CPUs to be on their own; with two, the client's CPU is taken from all sides alike.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from benchmarks import harness, plot, report, sides

WORKERS = 2
CONNECTIONS = 16
ROUNDS = 5
REQUESTS = 1_000
QUICK_REQUESTS = 300
PATH = "/work/5"
# No peer has more throughput, or a lower p99, than even connections give. One that was lucky has as
# much, so what is in the noise of two shared cores is no miss.
NOISE = 0.05


@dataclass(frozen=True, slots=True)
class Start:
    """What one start of one side showed."""

    per_second: float
    p99: float  # milliseconds
    by_worker: list[int]  # connections, highest first


# By side: one of each start.
Starts = dict[str, list[Start]]


def compared_sides() -> list[harness.Side]:
    return [
        sides.aiocluster(WORKERS, sides.WORK, policy="round_robin"),
        sides.aiocluster(WORKERS, sides.WORK, policy="least_connections"),
        sides.gunicorn(WORKERS, sides.WORK),
        sides.uvicorn(WORKERS, sides.WORK_ASGI),
        sides.granian(WORKERS, sides.WORK_ASGI),
        sides.node(WORKERS),
    ]


def measure(compared: Sequence[harness.Side], rounds: int, requests: int) -> Starts:
    starts: Starts = defaultdict(list)
    for side in harness.alternated(compared, rounds):
        with harness.running(side) as server:
            starts[side.name].append(_start(server, requests))
    return starts


def _start(server: harness.Server, requests: int) -> Start:
    seen = harness.timed_load(
        server, "keepalive", connections=CONNECTIONS, requests=requests, path=PATH
    )
    # A worker that nobody reached answered nothing: it is one of the zeros.
    by_worker = sorted([*seen.bodies.values(), *[0] * (WORKERS - len(seen.bodies))], reverse=True)
    p99 = report.percentile(seen.milliseconds[PATH], 99)
    return Start(requests / seen.seconds, p99, by_worker)


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    compared = harness.present(compared_sides())
    starts = measure(compared, options.rounds, QUICK_REQUESTS if options.quick else REQUESTS)
    figures = [figure for name in starts if _is_peer(name) for figure in _figures(name, starts)]
    _show(starts, figures)
    return figures


def _is_peer(name: str) -> bool:
    return not name.startswith("aiocluster")


def _figures(peer: str, starts: Starts) -> list[report.Figure]:
    """Round robin beside one peer, start by start."""
    pairs = list(zip(starts.get("aiocluster round_robin", []), starts[peer], strict=False))
    faster = [theirs.per_second / ours.per_second for ours, theirs in pairs]
    later = [ours.p99 / theirs.p99 for ours, theirs in pairs]
    return [
        report.at_most_ratio(f"{peer}'s throughput over round robin's", 1 + NOISE, faster),
        report.at_most_ratio(f"round robin's p99 over {peer}'s", 1 + NOISE, later),
    ]


def _show(starts: Starts, figures: Sequence[report.Figure]) -> None:
    rows = [
        (
            name,
            report.spread([start.per_second for start in seen]),
            report.spread([start.p99 for start in seen]),
            ", ".join("/".join(map(str, start.by_worker)) for start in seen),
        )
        for name, seen in starts.items()
    ]
    header = ("side", "requests/s", "p99, ms", "connections a worker, each start")
    title = f"{CONNECTIONS} connections, 5 ms of CPU a request: median (lowest to highest start)"
    report.print_table(title, header, rows)
    report.print_figures(figures)
    measured = {name: [asdict(start) for start in seen] for name, seen in starts.items()}
    report.write_json("balance", {"starts": measured}, figures)
    p99 = {name: sorted(start.p99 for start in seen) for name, seen in starts.items()}
    picked = {
        name: [values[0], statistics.median(values), values[-1]] for name, values in p99.items()
    }
    groups = ["best start", "median start", "worst start"]
    plot.bars("balance", f"p99 of {CONNECTIONS} kept-alive connections", "ms", groups, picked)
    rates = {name: [statistics.median(one.per_second for one in s)] for name, s in starts.items()}
    title = f"Throughput of {CONNECTIONS} kept-alive connections, median start"
    plot.bars("balance_throughput", title, "requests a second", [""], rates)


if __name__ == "__main__":
    main()
