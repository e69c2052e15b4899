"""A picture of each table, as PNG in benchmarks/results/."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.report import RESULTS

# One colour a side, the same in every picture.
_COLOURS = {
    "aiocluster": "#1f6feb",
    "aiocluster round_robin": "#1f6feb",
    "aiocluster least_connections": "#54aeff",
    "aiocluster least_loaded": "#0a3069",
    "aiocluster shared": "#76e3ea",
    "C": "#6e7781",
    "C + aiohttp": "#afb8c1",
}
# As many as the most sides in a picture, for two of one colour say nothing.
_OTHER_COLOURS = ("#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#1b7c83", "#57606a")


def bars(
    name: str, title: str, unit: str, groups: Sequence[str], series: Mapping[str, Sequence[float]]
) -> None:
    """A group of bars for each of `groups`, one bar a side; `series` is by side, in their order."""
    pyplot = _pyplot()
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    width = 0.8 / max(len(series), 1)
    for number, (side, values) in enumerate(series.items()):
        places = [group + (number - (len(series) - 1) / 2) * width for group in range(len(values))]
        drawn = axes.bar(places, values, width * 0.92, label=side, color=_colour(side, number))
        axes.bar_label(drawn, fmt="%.3g", padding=2, fontsize=8)
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(bottom=0)
    _finish(figure, axes, name, title, unit)


def lines(
    name: str,
    title: str,
    labels: tuple[str, str],
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> None:
    """A line a side; `labels` are what x and y are; `series` is by side: its xs and its ys."""
    pyplot = _pyplot()
    if pyplot is None:
        return
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (side, (xs, ys)) in enumerate(series.items()):
        axes.plot(xs, ys, marker="o", label=side, color=_colour(side, number))
    axes.set_xlabel(labels[0])
    axes.set_ylim(bottom=0)
    _finish(figure, axes, name, title, labels[1])


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _colour(side: str, number: int) -> str:
    return _COLOURS.get(side, _OTHER_COLOURS[number % len(_OTHER_COLOURS)])


def _finish(figure: Any, axes: Any, name: str, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=9)
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=120)
    _pyplot().close(figure)
    print(f"written: benchmarks/results/{name}.png")
