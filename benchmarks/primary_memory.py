"""Does the primary's memory stay flat over 100,000 connections?

Sides: aiocluster, gunicorn with aiohttp's worker (pip install gunicorn aiohttp uvloop), and Node's
cluster module, round robin (apt install nodejs); two workers each, the hello app, and one request
on each connection, 32 at a time. gunicorn's primary sees no connection: it is here for its size.

Memory is read before, ten times along the way, and after the server has been quiet again. The
primary's is its RSS. The tree's is its PSS, where a page that n processes share counts 1/n in each,
because forked workers share most of theirs; its RSS, which counts such pages n times, is in the
JSON. Flat means: what the second half of the connections adds is under 1 MB. The first half may
still fill caches and free lists.
"""

from collections.abc import Sequence
from dataclasses import asdict

from benchmarks import harness, plot, processes, report, sides

WORKERS = 2
CONNECTIONS = 100_000
QUICK_CONNECTIONS = 10_000
STEPS = 10
MIB = 1024 * 1024
MAX_RSS_MIB = 60.0
MAX_GROWTH_MIB = 1.0
# By side: one reading before, one after each step, one at the end.
Readings = dict[str, list[processes.Memory]]


def measure(compared: Sequence[harness.Side], connections: int) -> Readings:
    readings: Readings = {}
    for side in compared:
        with harness.running(side) as server:
            taken = [processes.memory(server.pid)]
            for _ in range(STEPS):
                harness.load(server, "close", connections=32, requests=connections // STEPS)
                taken.append(processes.memory(server.pid))
            harness.wait_until_quiet(server)
            taken.append(processes.memory(server.pid))
            readings[side.name] = taken
    return readings


def growth(taken: Sequence[processes.Memory]) -> float:
    """MiB that the primary gained over the second half of the connections."""
    return (taken[-1].primary_rss - taken[STEPS // 2].primary_rss) / MIB


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    # One round: 100,000 connections are the repetition.
    options = harness.parse_options(__doc__, argv, 1)
    compared = harness.present(
        [sides.aiocluster(WORKERS), sides.gunicorn(WORKERS), sides.node(WORKERS)]
    )
    connections = QUICK_CONNECTIONS if options.quick else CONNECTIONS
    readings = measure(compared, connections)
    figures = _figures(readings.get("aiocluster"))
    _show(readings, connections, figures)
    return figures


def _figures(taken: Sequence[processes.Memory] | None) -> list[report.Figure]:
    peak = max(reading.primary_rss for reading in taken) / MIB if taken else None
    grown = growth(taken) if taken else None
    return [
        report.at_most("primary's highest RSS", MAX_RSS_MIB, peak, " MiB"),
        report.at_most("primary's growth in the second half", MAX_GROWTH_MIB, grown, " MiB"),
    ]


def _show(readings: Readings, connections: int, figures: Sequence[report.Figure]) -> None:
    header = ("side", "before", "highest", "after", "2nd half's growth", "tree before", "after")
    rows = [(name, *_row(taken)) for name, taken in readings.items()]
    title = f"Primary's RSS and the tree's PSS over {connections:,} connections, MiB"
    report.print_table(title, header, rows)
    report.print_figures(figures)
    measured = {name: [asdict(reading) for reading in taken] for name, taken in readings.items()}
    report.write_json("primary_memory", {"connections": connections, "bytes": measured}, figures)
    # The last reading, when quiet again, is drawn one step further on.
    steps = [connections // STEPS * step for step in range(STEPS + 2)]
    series = {
        name: (steps, [reading.primary_rss / MIB for reading in taken])
        for name, taken in readings.items()
    }
    plot.lines("primary_memory", "The primary's memory", ("connections", "RSS, MiB"), series)


def _row(taken: Sequence[processes.Memory]) -> tuple[str, ...]:
    rss = [reading.primary_rss / MIB for reading in taken]
    numbers = (rss[0], max(rss), rss[-1], growth(taken))
    trees = (taken[0].tree_pss / MIB, taken[-1].tree_pss / MIB)
    return tuple(f"{number:.1f}" for number in (*numbers, *trees))


if __name__ == "__main__":
    main()
