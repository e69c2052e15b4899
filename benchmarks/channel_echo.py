"""How many echo round trips a second does the channel between primary and worker carry?

Sides: aiocluster's channel (msgpack), and Node's, which is `process.send`, from child_process.fork
and from a cluster worker, each with its JSON (the default) and its "advanced" serialization (apt
install nodejs). One worker; the primary keeps ten small messages, {"n": 7}, in flight; the worker
sends each straight back. The answers must come in order and complete.

Each round starts each side anew, warms it up, and times a fixed number of round trips in the
primary.
"""

import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence

from benchmarks import harness, plot, report, sides

ROUNDS = 7
IN_FLIGHT = 10
WARM_UP = 20_000
MEASURED = 100_000
TIMEOUT = 60.0
MIN_PER_SECOND = 60_000


FORMS = ("json", "advanced")


def compared_sides() -> list[harness.Side]:
    """What is started here is no server; the argument is the number of round trips."""
    ours = harness.Side(
        name="aiocluster",
        origin="pip install aiocluster",
        installed=sides.has_aiocluster(),
        command=lambda trips: [
            *(sys.executable, "-m", "benchmarks.apps.echo_primary"),
            *(str(IN_FLIGHT), str(WARM_UP), str(trips)),
        ],
    )
    return [ours, *(_node(kind, form) for kind in ("fork", "cluster") for form in FORMS)]


def _node(kind: str, form: str) -> harness.Side:
    return harness.Side(
        name=f"Node {kind}, {form}",
        origin="apt install nodejs",
        installed=sides.has_node(),
        command=lambda trips: [
            *("node", str(sides.NODE_APPS / "echo.js"), kind, form),
            *(str(IN_FLIGHT), str(WARM_UP), str(trips)),
        ],
    )


def measure(compared: Sequence[harness.Side], rounds: int, trips: int) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = defaultdict(list)
    for side in harness.alternated(compared, rounds):
        output = harness.run_to_end(side.command(trips), TIMEOUT)
        rates[side.name].append(json.loads(output)["per_second"])
    return rates


def main(argv: Sequence[str] | None = None) -> list[report.Figure]:
    options = harness.parse_options(__doc__, argv, ROUNDS)
    compared = harness.present(compared_sides())
    rates = measure(compared, options.rounds, MEASURED // 5 if options.quick else MEASURED)
    ours = rates.get("aiocluster")
    value = statistics.median(ours) if ours else None
    figures = [report.at_least("echo round trips a second", MIN_PER_SECOND, value)]
    rows = [(name, report.spread(measured)) for name, measured in rates.items()]
    title = f"Echo round trips a second, {IN_FLIGHT} in flight: median (lowest to highest round)"
    report.print_table(title, ("side", "round trips/s"), rows)
    report.print_figures(figures)
    report.write_json("channel_echo", {"per_second": rates}, figures)
    medians = {name: [statistics.median(measured)] for name, measured in rates.items()}
    title = f"Echo over the channel, {IN_FLIGHT} in flight"
    plot.bars("channel_echo", title, "round trips a second", [""], medians)
    return figures


if __name__ == "__main__":
    main()
