"""How long do quick requests wait for slow ones?

Sides, with two and with four workers: aiocluster with least_loaded, round_robin, least_connections
and shared; gunicorn with aiohttp's worker, uvicorn --workers and granian (pip install gunicorn
aiohttp uvicorn granian uvloop); Node's cluster module, round robin (apt install nodejs). Where the
loop that serves also accepts (shared, gunicorn, uvicorn) a blocked worker takes nothing; where a
primary gives, or a thread of its own accepts (granian), it has to be known that it is blocked.

25 clients a second for each worker come at random times that do not depend on the answers (a client
that waits holds no other back, as in life), each with a connection and a request of its own. Of
every 50 requests one, at a random place, takes 200 ms of CPU (benchmarks/apps/work.py); the others
take none. A slow one blocks the loop of its worker, and whoever has been given to that worker
waits. The times and places are random, but of a seed: in a round they are the same for all sides.

Shown are p50 and p99 of the others alone, and how many of them were held up: had no answer for
longer than 50 ms, which is far above what any of these servers needs, and far below 200. Slow ones
take a tenth of each worker's time. So two of them meet in less than 1 % of the time, which with two
workers blocks everybody, whatever chooses: p99 must not be about that. With more workers than CPUs
a quick request shares a CPU with a slow one, though its worker be another.
"""

import statistics
from collections import defaultdict
from collections.abc import Sequence

from benchmarks import harness, plot, report, sides

WORKERS = (2, 4)
ROUNDS = 3
SECONDS = 4
QUICK_SECONDS = 1
RATE = 25  # a second, for each worker
EVERY = 50
PATH, SLOW_PATH = "/", "/work/200"
HELD_UP = 50.0  # milliseconds
OURS = "aiocluster least_loaded"
# By number of workers, then by side: milliseconds of each quick request, one list of each round.
Times = dict[int, dict[str, list[list[float]]]]


def compared_sides(workers: int) -> list[harness.Side]:
    return [
        sides.aiocluster(workers, sides.WORK, policy="least_loaded"),
        sides.aiocluster(workers, sides.WORK, policy="round_robin"),
        sides.aiocluster(workers, sides.WORK, policy="least_connections"),
        sides.aiocluster(workers, sides.WORK, policy="shared"),
        sides.gunicorn(workers, sides.WORK),
        sides.uvicorn(workers, sides.WORK_ASGI),
        sides.granian(workers, sides.WORK_ASGI),
        sides.node(workers),
    ]


def measure(names: Sequence[str], rounds: int, seconds: int) -> Times:
    times: Times = {}
    for workers in WORKERS:
        times[workers] = defaultdict(list)
        compared = [side for side in compared_sides(workers) if side.name in names]
        for turn, side in enumerate(harness.alternated(compared, rounds)):
            with harness.running(side) as server:
                seen = _quick_ones(server, RATE * workers, seconds, seed=turn // len(compared))
            times[workers][side.name].append(seen)
    return times


def _quick_ones(server: harness.Server, rate: int, seconds: int, seed: int) -> list[float]:
    plan = {"requests": rate * seconds, "rate": rate, "every": EVERY, "seed": seed}
    seen = harness.timed_load(server, "arrivals", path=PATH, rare_path=SLOW_PATH, **plan)
    return seen.milliseconds[PATH]


def percentiles(rounds: Sequence[Sequence[float]], percent: int) -> list[float]:
    return [report.percentile(values, percent) for values in rounds]


def held_up(rounds: Sequence[Sequence[float]]) -> float:
    """The percentage of all requests of all rounds."""
    every = [value for values in rounds for value in values]
    return 100 * sum(value > HELD_UP for value in every) / len(every)


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    names = [side.name for side in harness.present(compared_sides(WORKERS[0]))]
    times = measure(names, options.rounds, QUICK_SECONDS if options.quick else SECONDS)
    figures = [
        _figure(workers, name, times[workers])
        for workers in WORKERS
        for name in names
        if name == "aiocluster round_robin" or not name.startswith("aiocluster")
    ]
    _show(names, times, figures)
    return figures


def _figure(workers: int, other: str, by_side: dict[str, list[list[float]]]) -> report.Figure:
    ours, theirs = (percentiles(by_side.get(name, []), 99) for name in (OURS, other))
    name = f"p99 of least_loaded over {other.removeprefix('aiocluster ')}'s, {workers} workers"
    return report.at_most_ratio(name, 1.0, report.paired_ratios(ours, theirs))


def _show(names: Sequence[str], times: Times, figures: Sequence[report.Figure]) -> None:
    for workers in WORKERS:
        rows = [(name, *_row(times[workers][name])) for name in names]
        header = ("side", "p50, ms", "p99, ms", "held up, %")
        title = (
            f"Quick requests beside slow ones, {workers} workers: median (lowest to highest round)"
        )
        report.print_table(title, header, rows)
    report.print_figures(figures)
    report.write_json("slow_requests", {"milliseconds": times}, figures)
    groups = [f"{workers} workers" for workers in WORKERS]
    medians = {
        name: [statistics.median(percentiles(times[workers][name], 99)) for workers in WORKERS]
        for name in names
    }
    others = f"the others, when 1 request in {EVERY} takes 200 ms of CPU"
    plot.bars("slow_requests", f"p99 of {others}", "ms", groups, medians)
    shares = {name: [held_up(times[workers][name]) for workers in WORKERS] for name in names}
    title = f"Held up for over {HELD_UP:g} ms, of {others}"
    plot.bars("slow_requests_held_up", title, "%", groups, shares)


def _row(rounds: Sequence[Sequence[float]]) -> tuple[str, ...]:
    p50, p99 = (report.spread(percentiles(rounds, percent)) for percent in (50, 99))
    return p50, p99, f"{held_up(rounds):.2f}"


if __name__ == "__main__":
    main()
