"""Pictures as PNG and SVG: accuracy against labels, size and alpha, and learning curves.

One colour and one marker per arm in every picture, from the palette of Okabe and Ito (2008), which
readers with any common form of colour blindness can tell apart.
"""

import dataclasses
import importlib.util
import io
import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.reporting.confidence import Curve
from sbs_jax.reporting.rows import ARM_NAMES, arm_name, labels_name
from sbs_jax.reporting.statistics import Cell, Summary

_COLOURS = dict(
    zip(
        ARM_NAMES,
        ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#7F7F00"),
        strict=True,
    )
)
_MARKERS = dict(zip(ARM_NAMES, "sD^oPvX", strict=True))
_DASHES, _FILLS = ("-", "--", ":", "-."), ("full", "none", "left", "right")
_OTHER = ("#444444", "#888888", "#5D3A9B", "#A6761D")
# Shares of the distance between two fractions: between neighbouring arms, and from an arm's mean to
# its seeds, which would vanish behind the interval's bar.
_DODGE, _ASIDE = 0.08, 0.022

# Logged scalars that learning curves are drawn of, and their axes.
CURVES = {
    "label/loss": "label loss (nats per token)",
    "rationale/loss": "rationale loss (nats per token)",
    "validation/accuracy": "validation accuracy",
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """One drawing in two formats."""

    png: bytes
    svg: bytes


def available() -> bool:
    """Whether matplotlib is installed; everything but the pictures works without."""
    return importlib.util.find_spec("matplotlib") is not None


@dataclasses.dataclass(frozen=True)
class Curves:
    """What one run logged: metric name -> [(step, value), ...].

    Attributes:
        arm: decides the colour.
        label: its entry in the legend, shared by runs of the same arm and label.
        row: name of the row of panels it is drawn in; "" for a figure of one row.
        points: of the names in `CURVES`; others are not drawn.
    """

    arm: str
    label: str
    row: str
    points: dict[str, list[tuple[int, float]]]


def accuracy(summary: Summary, title: str, baseline: str) -> Picture:
    """Accuracy against the number of labels: seeds as dots, means with their 95% intervals.

    Args:
        title: says what was run.
        baseline: what the untrained guesser does, for the legend.

    Raises:
        UserError: matplotlib is missing.
    """
    plt = _pyplot()
    fractions = list(summary.labels)
    places = {fraction: math.log2(fraction) for fraction in fractions}
    gap = min((places[b] - places[a] for a, b in itertools.pairwise(fractions)), default=1.0)
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    _draw_references(axes, summary, places, baseline)
    for index, arm in enumerate(summary.arms):
        shift = (index - (len(summary.arms) - 1) / 2) * _DODGE * gap
        _draw_arm(axes, summary, arm, {f: places[f] + shift for f in fractions}, _ASIDE * gap)
    axes.set_xticks(list(places.values()), [labels_name(f, n) for f, n in summary.labels.items()])
    axes.set_xlim(places[fractions[0]] - 0.35 * gap, places[fractions[-1]] + 0.35 * gap)
    axes.set_ylim(_floor(summary), 1.02)
    axes.set_xlabel("training questions (share of all)")
    questions = sorted({cell.test_questions for cell in summary.cells})
    axes.set_ylabel(f"accuracy on {' or '.join(map(str, questions))} test questions per seed")
    axes.set_title(title, loc="left", fontsize=11, wrap=True)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    figure.legend(
        title="large marks: means over seeds with 95% intervals; small dots: seeds",
        title_fontsize=9,
        loc="outside lower center",
        ncols=2,
        frameon=False,
        fontsize=9,
    )
    return _picture(figure)


def _draw_references(
    axes: Any, summary: Summary, places: dict[float, float], baseline: str
) -> None:
    if teacher := summary.teacher:
        axes.axhspan(*teacher.ci95, color="black", alpha=0.07, linewidth=0)
        label = f"teacher {teacher.value:.3f} (n = {teacher.n})"
        axes.axhline(teacher.value, color="black", linestyle="--", linewidth=1.2, label=label)
    if summary.majority:
        axes.plot(
            [places[fraction] for fraction in summary.majority],
            [guess.mean for guess in summary.majority.values()],
            color="#777777",
            linestyle=":",
            marker="_",
            label=f"untrained guess: {baseline}",
        )


def _draw_arm(
    axes: Any, summary: Summary, arm: str, places: dict[float, float], aside: float
) -> None:
    colour, marker = _style(arm, summary.arms)
    cells = [cell for cell in summary.cells if cell.arm == arm]
    xs = [places[cell.fraction] for cell in cells]
    means, errors = _means_and_errors(cells)
    seeds = sorted({cell.accuracy.seeds for cell in cells})
    axes.errorbar(
        xs,
        means,
        yerr=errors,
        color=colour,
        marker=marker,
        markersize=7,
        capsize=3,
        **_variant(arm, summary.arms),
        linewidth=1.6,
        elinewidth=1.2,
        label=f"{arm_name(arm)} ({' or '.join(map(str, seeds))} seeds)",
    )
    for x, cell in zip(xs, cells, strict=True):
        values = list(cell.by_seed.values())
        axes.scatter([x - aside] * len(values), values, s=16, color=colour, alpha=0.7, linewidths=0)


def _floor(summary: Summary) -> float:
    """The y axis starts below everything drawn, at a multiple of 0.05."""
    lowest = [min(cell.by_seed.values()) for cell in summary.cells]
    lowest += [cell.accuracy.low for cell in summary.cells if cell.accuracy.low is not None]
    lowest += [guess.mean for guess in summary.majority.values()]
    lowest += [summary.teacher.ci95[0]] if summary.teacher else []
    return max(0.0, math.floor((min(lowest) - 0.02) * 20) / 20)


def learning_curves(runs: Sequence[Curves], title: str) -> Picture:
    """Losses per task and validation accuracy against the step: a column per metric.

    Runs of one arm, label and row are seeds: their mean is drawn, in a band.

    Raises:
        UserError: matplotlib is missing.
    """
    plt = _pyplot()
    rows = list(dict.fromkeys(run.row for run in runs))
    metrics = [name for name in CURVES if any(name in run.points for run in runs)]
    styles = _curve_styles(runs)
    figure, grid = plt.subplots(
        len(rows),
        len(metrics),
        figsize=(4 * len(metrics), 2.6 * len(rows) + 0.8),
        layout="constrained",
        sharex=True,
        sharey="col",
        squeeze=False,
    )
    for row, panels in zip(rows, grid, strict=True):
        for metric, axes in zip(metrics, panels, strict=True):
            drawn = [run for run in runs if run.row == row and metric in run.points]
            for key, style in styles.items():
                of_key = [run.points[metric] for run in drawn if (run.arm, run.label) == key]
                _draw_seeds(axes, [dict(points) for points in of_key], style)
            axes.grid(color="#DDDDDD", linewidth=0.7)
            if metric.endswith("loss"):
                axes.set_yscale("log")
            axes.set_title(f"{CURVES[metric]}\n{row}" if row else CURVES[metric], fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("update")
    for (_, label), style in styles.items():
        grid[0][0].plot([], [], label=label, **style)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return _picture(figure)


def _draw_seeds(axes: Any, seeds: Sequence[dict[int, float]], style: dict[str, Any]) -> None:
    """The mean of the seeds at each step that all have, in a band from the lowest to the highest.

    Args:
        seeds: step -> value, of each.
    """
    steps = sorted(set.intersection(*map(set, seeds))) if seeds else []
    if not steps:
        return
    values = [[seed[step] for seed in seeds] for step in steps]
    if len(seeds) > 1:
        lows, highs = ([end(of_step) for of_step in values] for end in (min, max))
        axes.fill_between(steps, lows, highs, color=style["color"], alpha=0.18, linewidth=0)
    # A few evaluations are points on a line; one alone would be no line at all.
    few = {"markersize": 4 if len(steps) < 20 else 0}
    axes.plot(steps, [statistics.fmean(of_step) for of_step in values], **style | few)


def _curve_styles(runs: Sequence[Curves]) -> dict[tuple[str, str], dict[str, Any]]:
    """(arm, label) -> how its lines look: the method's colour, another dash for each."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    of_method: dict[str, int] = {}
    styles = {}
    for arm, label in dict.fromkeys((run.arm, run.label) for run in runs):
        method = arm.split("@")[0]
        of_method[method] = of_method.get(method, -1) + 1
        colour, marker = _style(arm, arms)
        styles[arm, label] = {
            "color": colour,
            "marker": marker,
            "markersize": 4,
            "linewidth": 1.2,
            "linestyle": _DASHES[of_method[method] % len(_DASHES)],
        }
    return styles


def accuracy_along(
    summary: Summary,
    places: dict[str, float],
    axis: str,
    logarithmic: bool,
    title: str,
    teacher_at: float | None = None,
) -> Picture:
    """Accuracy with the largest fraction of the labels along another axis of the grid.

    Args:
        places: of the arms that are drawn, on this axis; one line per method.
        axis: its name.
        title: of the picture.
        teacher_at: where the teacher is on the axis, besides its line.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    fraction = max(summary.labels)
    methods: dict[str, list[str]] = {}
    for arm in sorted(places, key=places.__getitem__):
        methods.setdefault(arm.split("@")[0], []).append(arm)
    for method, arms in methods.items():
        cells = [cell for arm in arms if (cell := summary.cell(arm, fraction))]
        colour, marker = _style(method, list(methods))
        xs, means, errors = [places[cell.arm] for cell in cells], *_means_and_errors(cells)
        look = {"color": colour, "marker": marker, "capsize": 3, "label": arm_name(method)}
        axes.errorbar(xs, means, yerr=errors, **look)
    if teacher := summary.teacher:
        label = f"teacher {teacher.value:.3f} (n = {teacher.n})"
        if teacher_at is not None:
            label = f"teacher, {size_name(teacher_at)} parameters: {teacher.value:.3f}"
            axes.plot([teacher_at], [teacher.value], color="black", marker="*", markersize=12)
        axes.axhline(teacher.value, color="black", linestyle="--", linewidth=1.2, label=label)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlabel(axis)
    axes.set_ylabel("test accuracy")
    axes.set_title(title, loc="left", fontsize=11, wrap=True)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return _picture(figure)


def size_name(parameters: int | float) -> str:
    """As papers write it: 12.3k, 220M, 540B."""
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{name}"
    return f"{parameters:g}"


def smallest_winners(
    summary: Summary, sizes: dict[str, float], teacher_at: float | None, title: str
) -> Picture:
    """The least data with which each arm beats the teacher, against the student's parameters.

    Args:
        sizes: parameters of the arms that are drawn.
        teacher_at: parameters of the teacher, a vertical line.
    """
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    heights = {fraction: float(i) for i, fraction in enumerate(summary.labels)}
    none = float(len(heights))
    methods: dict[str, list[tuple[float, float]]] = {}
    for arm, least in summary.least_data().items():
        if arm in sizes:
            height = none if least is None else heights[least]
            methods.setdefault(arm.split("@")[0], []).append((sizes[arm], height))
    for number, (method, points) in enumerate(methods.items()):
        colour, marker = _style(method, list(methods))
        shift = (number - (len(methods) - 1) / 2) * _DODGE  # equal results stay apart
        for x, y in points:
            filled = {"facecolor": colour if y < none else "none", "edgecolor": colour}
            axes.scatter([x], [y + shift], marker=marker, s=80, **filled)
        axes.scatter([], [], marker=marker, s=80, color=colour, label=arm_name(method))
    if teacher_at is not None:
        label = f"teacher, {size_name(teacher_at)} parameters"
        axes.axvline(teacher_at, color="black", linestyle="--", linewidth=1.2, label=label)
    ticks = [labels_name(f, n) for f, n in summary.labels.items()]
    axes.set_yticks([*heights.values(), none], [*ticks, "none of these"])
    axes.set_ylim(-0.5, none + 0.5)
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("least training questions")
    axes.set_title(title, loc="left", fontsize=11, wrap=True)
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return _picture(figure)


def confidence(curves: Sequence[Curve], title: str) -> Picture:
    """Calibration, and accuracy against the share of questions that a student keeps."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    arms = [curve.arm for curve in curves]
    left.plot([0, 1], [0, 1], color="#777777", linestyle=":", label="calibrated")
    for curve in curves:
        colour, marker = _style(curve.arm, arms)
        look = {"color": colour, "markersize": 5, "linewidth": 1.4}
        look |= _variant(curve.arm, arms)
        left.plot(*zip(*curve.bins, strict=True), marker=marker, label=curve.name, **look)
        right.plot(*zip(*curve.coverage, strict=True), **look)
    left.set(xlabel="mean confidence of a bin", ylabel="accuracy", title="calibration")
    right.set(xlabel="share kept, the surest first", ylabel="accuracy on it", title="coverage")
    for axes in (left, right):
        axes.grid(color="#DDDDDD", linewidth=0.7)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return _picture(figure)


def _means_and_errors(cells: Sequence[Cell]) -> tuple[list[float], list[list[float]]]:
    """Means, and how far their intervals reach below and above."""
    means = [cell.accuracy.mean for cell in cells]
    below = [0.0 if c.accuracy.low is None else c.accuracy.mean - c.accuracy.low for c in cells]
    above = [0.0 if c.accuracy.high is None else c.accuracy.high - c.accuracy.mean for c in cells]
    return means, [below, above]


def _style(arm: str, arms: Sequence[str]) -> tuple[str, str]:
    method = arm.split("@")[0]
    if method in _COLOURS:
        return _COLOURS[method], _MARKERS[method]
    others = [other for other in arms if other.split("@")[0] not in _COLOURS]
    return _OTHER[others.index(arm) % len(_OTHER)], "."


def _variant(arm: str, arms: Sequence[str]) -> dict[str, Any]:
    """Dashes and filling, others for each size and alpha of a method, which share its colour."""
    alike = sorted({other for other in arms if other.split("@")[0] == arm.split("@")[0]})
    place = alike.index(arm) % len(_DASHES)
    return {"linestyle": _DASHES[place], "fillstyle": _FILLS[place]}


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise UserError("matplotlib is missing; pip install 'sbs_jax[report]'") from None
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "sbs_jax"  # ids without a random part
    from matplotlib import pyplot

    return pyplot


def _picture(figure: Any) -> Picture:
    png, svg = io.BytesIO(), io.StringIO()
    figure.draw_without_rendering()  # lays it out; once for both files
    figure.set_layout_engine("none")
    figure.savefig(png, format="png", dpi=150)
    figure.savefig(svg, format="svg", metadata={"Date": None})  # the same numbers: the same file
    _pyplot().close(figure)
    return Picture(png.getvalue(), svg.getvalue().encode())
