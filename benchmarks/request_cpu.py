"""What CPU time does one request cost, all processes counted?

Sides: aiocluster (metrics on, as always), the same with the policy `shared`, and gunicorn with
aiohttp's worker (pip install gunicorn aiohttp uvloop), which counts nothing. All serve
benchmarks/apps/hello.py with two workers on uvloop, without an access log, with 75 s of keep-alive.
gunicorn's control socket is off, for it is a file in the user's home. gunicorn's workers accept for
themselves, so every connection that aiocluster's primary hands over is a cost that only aiocluster
has: hence the second mode. With `shared` its workers do so, too.

Each round starts all sides anew and warms them up; then they take turns of a few thousand requests
from the same client, and the CPU time of the side's process tree is taken around each. Two turns,
one after the other, give one ratio; the median of all ratios counts. Short turns, because what
else runs on the machine changes by the second: with turns of a whole round, gunicorn compared with
itself came out as 0.96.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks import harness, plot, processes, report, sides

WORKERS = 2
ROUNDS = 5
TURNS = 16
CONNECTIONS = 32
# Until what the load client closed at its end is closed in the server, too.
SETTLE = 0.05


@dataclass(frozen=True, slots=True)
class Mode:
    name: str
    load: str
    requests: int  # a turn; a multiple of CONNECTIONS, so that each has the same share
    max_ratios: Mapping[str, float]  # of our sides


ROUND_ROBIN, SHARED, GUNICORN = "aiocluster", "aiocluster shared", "gunicorn"

MODES = (
    Mode("keep-alive", "keepalive", 6_400, {ROUND_ROBIN: 1.03, SHARED: 1.03}),
    Mode("one connection a request", "close", 2_560, {ROUND_ROBIN: 1.15, SHARED: 1.0}),
)
# By mode, then by side: microseconds a request, one of each turn.
Costs = dict[str, dict[str, list[float]]]


def measure(compared: Sequence[harness.Side], rounds: int, turns: int) -> Costs:
    costs: Costs = {mode.name: defaultdict(list) for mode in MODES}
    for _ in range(rounds):
        with harness.all_running(compared) as servers:
            for mode in MODES:
                for server in servers:
                    _microseconds(server, mode)  # the warm-up: a turn that is not counted
                for server in harness.alternated(servers, turns):
                    costs[mode.name][server.side.name].append(_microseconds(server, mode))
    return costs


def _microseconds(server: harness.Server, mode: Mode) -> float:
    before = processes.tree_cpu(server.pid)
    harness.load(server, mode.load, connections=CONNECTIONS, requests=mode.requests)
    time.sleep(SETTLE)
    return (processes.tree_cpu(server.pid) - before) / mode.requests * 1e6


def ratios(
    by_side: Mapping[str, Sequence[float]], ours: str, theirs: str = GUNICORN
) -> list[float]:
    """One side's cost over another's, of each pair of turns."""
    return report.paired_ratios(by_side.get(ours, []), by_side.get(theirs, []))


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    compared = harness.present(
        [
            sides.aiocluster(WORKERS),
            sides.gunicorn(WORKERS),
            sides.aiocluster(WORKERS, policy="shared"),
        ]
    )
    costs = measure(compared, options.rounds, 4 if options.quick else TURNS)
    figures = [_figure(mode, side, costs) for mode in MODES for side in mode.max_ratios]
    _show(compared, costs, figures)
    return figures


def _figure(mode: Mode, side: str, costs: Costs) -> report.Figure:
    name = f"CPU a request of {side} over gunicorn's, {mode.name}"
    return report.at_most_ratio(name, mode.max_ratios[side], ratios(costs[mode.name], side))


def _show(compared: Sequence[harness.Side], costs: Costs, figures: Sequence[report.Figure]) -> None:
    names = [side.name for side in compared]
    rows = [
        (mode.name, *(report.spread(costs[mode.name][name]) for name in names),
         report.estimate(ratios(costs[mode.name], SHARED, ROUND_ROBIN)))
        for mode in MODES
    ]  # fmt: skip
    title = "CPU time a request, whole process tree, µs: median (lowest to highest turn)"
    report.print_table(title, ("", *names, "shared over round robin"), rows)
    report.print_figures(figures)
    report.write_json("request_cpu", {"microseconds": costs}, figures)
    medians = {
        name: [statistics.median(costs[mode.name][name]) for mode in MODES] for name in names
    }
    groups = [mode.name for mode in MODES]
    plot.bars("request_cpu", "CPU time a request, whole process tree", "µs", groups, medians)


if __name__ == "__main__":
    main()
