"""Numbers to a table on the terminal and a JSON file in benchmarks/results/."""

import json
import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"
_PACKAGES = ("aiocluster", "aiohttp", "granian", "gunicorn", "hypercorn", "uvicorn", "uvloop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One promise: the target, and what was measured. `met` is None if it could not be."""

    name: str
    target: str
    measured: str
    met: bool | None


def at_most(name: str, limit: float, value: float | None, unit: str = "") -> Figure:
    """A figure whose target is `value` <= `limit`."""
    met = None if value is None else value <= limit
    return Figure(name=name, target=f"<= {limit:g}{unit}", measured=_shown(value, unit), met=met)


def at_least(name: str, limit: float, value: float | None, unit: str = "") -> Figure:
    """A figure whose target is `value` >= `limit`."""
    met = None if value is None else value >= limit
    return Figure(name=name, target=f">= {limit:g}{unit}", measured=_shown(value, unit), met=met)


def at_most_ratio(name: str, limit: float, ratios: Sequence[float]) -> Figure:
    """A figure whose target is the median of `ratios` <= `limit`."""
    value = statistics.median(ratios) if ratios else None
    met = None if value is None else value <= limit
    return Figure(name=name, target=f"<= {limit:g}", measured=estimate(ratios), met=met)


def paired_ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ours over theirs, turn by turn: what slowed one turn slowed the other of its pair, too."""
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def estimate(values: Sequence[float]) -> str:
    """Median, and between which values the true one lies with 95 % confidence, whatever the noise.

    The interval is that of the sign test: so many of the sorted values are cut off at each end.
    """
    if not values:
        return "-"
    median = f"{statistics.median(values):.3f}"
    cut = int((len(values) - 1.96 * math.sqrt(len(values))) / 2)
    if cut < 1:
        return median  # too few to say
    ordered = sorted(values)
    return f"{median} (95%: {ordered[cut - 1]:.3f} to {ordered[-cut]:.3f})"


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that so many percent of all do not exceed."""
    return sorted(values)[math.ceil(len(values) * percent / 100) - 1]


def spread(values: Sequence[float]) -> str:
    """Median and range, as in '1.02 (0.99 to 1.06)'."""
    if not values:
        return "-"
    low, high = _shown(min(values)), _shown(max(values))
    return f"{_shown(statistics.median(values))} ({low} to {high})"


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left column to the left, numbers to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    print(f"\n{title}\n")
    for number, line in enumerate(lines):
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  " + "   ".join(cells).rstrip())
        if number == 0:
            print("  " + "   ".join("-" * width for width in widths))


def print_figures(figures: Sequence[Figure]) -> None:
    """The promises and whether they hold."""
    verdicts = {True: "met", False: "MISSED", None: "not measured"}
    rows = [(f.name, f.target, f.measured, verdicts[f.met]) for f in figures]
    print_table("Targets", ("figure", "target", "measured", ""), rows)


def write_json(name: str, measured: object, figures: Sequence[Figure]) -> None:
    """Keep every round's numbers, with what they were measured on."""
    RESULTS.mkdir(exist_ok=True)
    content = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "measured": measured,
        "figures": [asdict(figure) for figure in figures],
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=2) + "\n")
    print(f"\nwritten: benchmarks/results/{path.name}")


def _machine() -> dict[str, object]:
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _shown(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    # Three digits that count; whole numbers from 100 on.
    return f"{value:,.0f}{unit}" if abs(value) >= 100 else f"{value:.3g}{unit}"
