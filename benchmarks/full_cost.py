"""What does it cost that all workers are full and clients wait?

Sides, two workers each: aiocluster with max_connections, and Node's cluster module, round robin,
with server.maxConnections (apt install nodejs). Four connections a worker are let in; all eight are
opened, answered and kept, and then idle. Then one more client connects and sends its request, and
then fifty in all. They must wait, without an answer: where one is answered or closed, nothing was
measured. In the end one of the eight closes, and one that waited must have its answer.

Measured are the CPU time of the process that was started and that of the whole tree, over some
seconds, as shares of one core. There is nothing to do in that time, so what is above the row in
which nobody waits is waste.
"""

import contextlib
import select
import socket
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks import harness, plot, processes, report, sides

WORKERS = 2
MAX_CONNECTIONS = 4
ROUNDS = 3
SECONDS = 5.0
QUICK_SECONDS = 1.0
WAITING = (0, 1, 50)
# Until those that came have been looked at, and refused or left alone.
SETTLE = 0.5
ANSWER_TIMEOUT = 10.0
# Of a core, for the primary: heartbeats and the metrics go on.
MAX_SHARE = 0.01
REQUEST = f"GET / HTTP/1.1\r\nHost: {harness.HOST}\r\n\r\n".encode()


@dataclass(frozen=True, slots=True)
class Shares:
    """CPU time over wall time."""

    primary: float
    tree: float


# By number of waiting clients, then by side: one of each round.
Costs = dict[int, dict[str, list[Shares]]]


def compared_sides() -> list[harness.Side]:
    return [
        sides.aiocluster(WORKERS, max_connections=MAX_CONNECTIONS),
        sides.node(WORKERS, max_connections=MAX_CONNECTIONS),
    ]


def measure(compared: Sequence[harness.Side], rounds: int, seconds: float) -> Costs:
    costs: Costs = {waiting: defaultdict(list) for waiting in WAITING}
    for side in harness.alternated(compared, rounds):
        with harness.running(side) as server:
            for waiting, shares in _measure_one(server, seconds):
                costs[waiting][side.name].append(shares)
    return costs


def _measure_one(server: harness.Server, seconds: float) -> Iterator[tuple[int, Shares]]:
    with contextlib.ExitStack() as opened:
        inside = [opened.enter_context(_asking(server)) for _ in range(WORKERS * MAX_CONNECTIONS)]
        for client in inside:
            _expect_answer(server, client)
        outside: list[socket.socket] = []
        for waiting in WAITING:
            while len(outside) < waiting:
                outside.append(opened.enter_context(_asking(server)))
            time.sleep(SETTLE)
            yield waiting, _shares(server, seconds)
            for client in outside:
                _expect_silence(server, client)
        inside[0].close()
        _expect_one_answer(server, outside)


def _asking(server: harness.Server) -> socket.socket:
    """A client that has connected and sent its request."""
    client = socket.create_connection((harness.HOST, server.port), timeout=ANSWER_TIMEOUT)
    client.sendall(REQUEST)
    return client


def _shares(server: harness.Server, seconds: float) -> Shares:
    primary, tree = processes.process_cpu(server.pid), processes.tree_cpu(server.pid)
    began = time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - began
    return Shares(
        (processes.process_cpu(server.pid) - primary) / lasted,
        (processes.tree_cpu(server.pid) - tree) / lasted,
    )


def _expect_answer(server: harness.Server, client: socket.socket) -> None:
    received = b""
    try:
        while not received.endswith(b"hello"):
            if not (more := client.recv(4096)):
                raise ConnectionError(f"closed after {received[:40]!r}")
            received += more
    except OSError as error:
        raise harness.BenchmarkFailed(f"{server.side.name}: no answer: {error!r}") from error


def _expect_silence(server: harness.Server, client: socket.socket) -> None:
    if _has_news([client], 0):
        received = client.recv(4096)[:40]
        raise harness.BenchmarkFailed(f"{server.side.name}: was to wait, but got {received!r}")


def _expect_one_answer(server: harness.Server, clients: Sequence[socket.socket]) -> None:
    answered = _has_news(clients, ANSWER_TIMEOUT)
    if not answered:
        raise harness.BenchmarkFailed(f"{server.side.name}: there is a place, and nobody has it")
    _expect_answer(server, answered[0])


def _has_news(clients: Sequence[socket.socket], timeout: float) -> list[socket.socket]:
    return select.select(clients, [], [], timeout)[0]


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    compared = harness.present(compared_sides())
    costs = measure(compared, options.rounds, QUICK_SECONDS if options.quick else SECONDS)
    figures = [_figure(waiting, costs[waiting].get("aiocluster")) for waiting in WAITING]
    _show([side.name for side in compared], costs, figures)
    return figures


def _figure(waiting: int, shares: Sequence[Shares] | None) -> report.Figure:
    value = statistics.median(one.primary for one in shares) if shares else None
    name = f"primary's share of a core, all full, {waiting} waiting"
    return report.at_most(name, MAX_SHARE, value)


def _show(names: Sequence[str], costs: Costs, figures: Sequence[report.Figure]) -> None:
    parts = ("primary", "tree")
    header = ("waiting", *(f"{name}, {part}" for name in names for part in parts))
    rows = [
        (
            str(waiting),
            *(
                report.spread([getattr(one, part) for one in by_side[name]])
                for name in names
                for part in parts
            ),
        )
        for waiting, by_side in costs.items()
    ]
    title = "CPU time while all are full, shares of a core: median (lowest to highest round)"
    report.print_table(title, header, rows)
    report.print_figures(figures)
    measured = {
        waiting: {name: [asdict(one) for one in shares] for name, shares in by_side.items()}
        for waiting, by_side in costs.items()
    }
    report.write_json("full_cost", {"shares": measured}, figures)
    medians = {
        f"{name}, {part}" if part == "tree" else name: [
            statistics.median(getattr(one, part) for one in costs[waiting][name])
            for waiting in WAITING
        ]
        for name in names
        for part in parts
    }
    groups = [f"{waiting} waiting" for waiting in WAITING]
    plot.bars("full_cost", "CPU time while all workers are full", "cores", groups, medians)


if __name__ == "__main__":
    main()
