"""What CPU time does one connection cost the primary alone?

Sides: aiocluster; a dispatcher in C that makes the same system calls (peers/dispatcher.c, compiled
here with cc -O2: apt install gcc), which is the floor for any primary that hands over connections;
and the primary of Node's cluster module, round robin (apt install nodejs). Two workers each.

aiocluster's primary is a batch process to the kernel (aiocluster/launch/scheduling.py), which is
worth a third of its cost when the CPUs are busy; so is the dispatcher in C. Node's is not.

The dispatcher in C is here twice: as "C", with workers in C that hardly touch memory, and as "C +
aiohttp", with workers that serve benchmarks/apps/hello.py as aiocluster's do (peers/taker.py). Both
matter: one by one, the same C costs about twice as much before aiohttp workers (the caches are
probably what they take from it). Only "C + aiohttp" serves the same app.

Each round starts all sides anew and warms them up (Node's compiler needs some thousand
connections); then they take turns of some thousand connections, one request on each, and the CPU
time of the process that was started, its children not counted, is taken around each turn. The turns
of two sides, one after the other, give one ratio; the median of all ratios counts.

Each load is run twice: free, where the kernel places the processes, and pinned, with all of the
server on one CPU and the client on another. Free, the C primary's one-by-one cost is 7 or 15 µs as
it happens: most likely whether the worker it wakes is on an idle CPU or on its own. Pinned, it was
always 7 on a machine that did nothing else. On one that does, pinned sides cannot move out of the
way of others, so read the pinned rows only from a quiet machine.

Batches: with 32 at a time, how fast the workers are decides how many connections one wake-up finds,
and so shares its cost: slow workers make a primary look cheap, even "C + aiohttp" cheaper than "C".
One by one, each wake-up brings one connection.
"""

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import harness, plot, processes, report, sides

WORKERS = 2  # dispatcher.c has as many children
ROUNDS = 3
TURNS = 8
WARM_UP = 4_000
# Until what the load client closed at its end is closed in the server, too.
SETTLE = 0.05
SOURCE = Path(__file__).resolve().parent / "peers" / "dispatcher.c"
LIMITS = {"C": 1.2, "C + aiohttp": 1.2, "Node cluster": 0.5}


@dataclass(frozen=True, slots=True)
class Mode:
    name: str
    concurrency: int
    connections: int
    pinned: bool


MODES = (
    Mode("one by one, free", 1, 2_000, pinned=False),
    Mode("one by one, pinned", 1, 2_000, pinned=True),
    Mode("32 at a time, free", 32, 4_000, pinned=False),
    Mode("32 at a time, pinned", 32, 4_000, pinned=True),
)
# By mode, then by side: microseconds a connection, one of each turn.
Costs = dict[str, dict[str, list[float]]]


@contextlib.contextmanager
def compiled_dispatcher() -> Iterator[list[harness.Side]]:
    """The sides in C; their program is gone when the block ends."""
    compiler = shutil.which("cc")
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "dispatcher")
        if compiler:
            subprocess.run([compiler, "-O2", "-o", program, str(SOURCE)], check=True)
        taker = [sys.executable, "-m", "benchmarks.peers.taker"]
        yield [
            _dispatcher("C", program, []),
            _dispatcher("C + aiohttp", program, taker),
        ]


def _dispatcher(name: str, program: str, worker: list[str]) -> harness.Side:
    return harness.Side(
        name=name,
        origin="apt install gcc",
        installed=shutil.which("cc") is not None,
        command=lambda port: [program, str(port), *worker],
    )


def measure(compared: Sequence[harness.Side], rounds: int, turns: int) -> Costs:
    costs: Costs = {mode.name: defaultdict(list) for mode in MODES}
    for _ in range(rounds):
        with harness.all_running(compared) as servers:
            for server in servers:
                harness.load(server, "close", connections=32, requests=WARM_UP)
            for mode in MODES:
                for server in harness.alternated(servers, turns):
                    costs[mode.name][server.side.name].append(_microseconds(server, mode))
    return costs


def _microseconds(server: harness.Server, mode: Mode) -> float:
    apart = processes.pinned_apart(server.pid) if mode.pinned else contextlib.nullcontext()
    with apart:
        before = processes.process_cpu(server.pid)
        harness.load(server, "close", connections=mode.concurrency, requests=mode.connections)
        time.sleep(SETTLE)
        return (processes.process_cpu(server.pid) - before) / mode.connections * 1e6


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    with compiled_dispatcher() as in_c:
        compared = harness.present([sides.aiocluster(WORKERS), *in_c, sides.node(WORKERS)])
        costs = measure(compared, options.rounds, 2 if options.quick else TURNS)
    figures = [_figure(mode, peer, costs) for peer in LIMITS for mode in MODES]
    _show(compared, costs, figures)
    return figures


def _figure(mode: Mode, peer: str, costs: Costs) -> report.Figure:
    by_side = costs[mode.name]
    ratios = report.paired_ratios(by_side.get("aiocluster", []), by_side.get(peer, []))
    return report.at_most_ratio(f"primary's CPU over {peer}'s, {mode.name}", LIMITS[peer], ratios)


def _show(compared: Sequence[harness.Side], costs: Costs, figures: Sequence[report.Figure]) -> None:
    names = [side.name for side in compared]
    rows = [
        (mode.name, *(report.spread(costs[mode.name][name]) for name in names)) for mode in MODES
    ]
    title = "CPU time of the primary a connection, µs: median (lowest to highest turn)"
    report.print_table(title, ("", *names), rows)
    report.print_figures(figures)
    report.write_json("primary_cpu", {"microseconds": costs}, figures)
    medians = {
        name: [statistics.median(costs[mode.name][name]) for mode in MODES] for name in names
    }
    groups = [mode.name for mode in MODES]
    plot.bars("primary_cpu", "CPU time of the primary a connection", "µs", groups, medians)


if __name__ == "__main__":
    main()
