"""A study's numbers as tables and sentences, for a terminal and for the page alike."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from sbs_jax.reporting.statistics import ARM_NAMES, TEACHER, Spread, Summary, arm_name, labels_name


@dataclasses.dataclass(frozen=True)
class Table:
    """Text fields in columns.

    Attributes:
        alignment: "<" or ">" for every column.
    """

    caption: str
    heads: Sequence[str]
    alignment: str
    lines: Sequence[Sequence[str]]

    def text(self) -> str:
        """For a terminal: the caption, the heads, a line per row, in aligned columns."""
        rows = [self.heads, *self.lines]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        shown = (
            "  ".join(f"{f:{a}{w}}" for f, a, w in zip(row, self.alignment, widths, strict=True))
            for row in rows
        )
        return "\n".join([self.caption, *(line.rstrip() for line in shown)])


def accuracy_table(summary: Summary, baseline: str = "majority label") -> Table:
    """Every arm at every fraction, the untrained guess under each, the teacher at the end.

    Args:
        baseline: what the untrained guesser does.
    """
    lines = []
    for fraction, count in summary.labels.items():
        name = labels_name(fraction, count)
        for arm in summary.arms:
            if cell := summary.cell(arm, fraction):
                seconds = "" if cell.cpu_seconds is None else f"{cell.cpu_seconds:.1f}"
                counts = (str(cell.test_questions), str(cell.steps), seconds)
                lines.append((name, arm_name(arm), *_shown(cell.accuracy), *counts))
        if guess := summary.majority.get(fraction):
            lines.append((name, f"({baseline})", *_shown(guess), "", "", ""))
    if teacher := summary.teacher:
        interval = "[{:.3f}, {:.3f}]".format(*teacher.ci95)
        lines.append(("", TEACHER, f"{teacher.value:.3f}", interval, "", str(teacher.n), "", ""))
    heads = ("labels", "arm", "accuracy", "95% interval", "seeds", "test n", "updates", "CPU s")
    return Table("Test accuracy: mean over seeds", heads, "<<>>>>>>", lines)


def difference_table(summary: Summary) -> Table:
    """Step-by-step minus each other arm and minus the teacher."""
    lines = [
        (
            labels_name(d.fraction, summary.labels[d.fraction]),
            f"{arm_name(d.arm)} minus {arm_name(d.base)}",
            *_shown(d.accuracy, sign="+"),
            d.reading,
        )
        for d in summary.differences
    ]
    heads = ("labels", "difference", "mean", "95% interval", "seeds", "reading")
    return Table("Differences in test accuracy, paired by seed", heads, "<<>>><", lines)


def _shown(value: Spread, sign: str = "") -> tuple[str, str, str]:
    """(mean, interval, seeds) as text."""
    interval = "-"
    if value.low is not None and value.high is not None:
        interval = f"[{value.low:{sign}.3f}, {value.high:{sign}.3f}]"
    return f"{value.mean:{sign}.3f}", interval, str(value.seeds)


def remarks(summary: Summary, baseline: str = "majority label") -> list[str]:
    """Sentences about how far the numbers carry, computed from them."""
    said = []
    if text := _not_above_baseline(summary, baseline):
        said.append(text)
    seeds = sorted({cell.accuracy.seeds for cell in summary.cells})
    runs = "one seed" if seeds == [1] else f"{' or '.join(map(str, seeds))} seeds"
    said.append(
        f"Intervals are over {runs} per cell (Student's t, cut to 0 and 1) and describe the spread "
        "from seed to seed; few seeds give wide ones. They are not corrected for the "
        f"{len(summary.differences)} comparisons made."
    )
    if text := _costs(summary):
        said.append(text)
    if summary.teacher:
        said.append(
            "The teacher's accuracy is its labels on the same test questions, scored by the same "
            "code, an unreadable answer being a wrong one; its interval is Wilson's over questions."
        )
    return said


def _not_above_baseline(summary: Summary, baseline: str) -> str:
    names = []
    for cell in summary.cells:
        guess = summary.majority.get(cell.fraction)
        low = cell.accuracy.mean if cell.accuracy.low is None else cell.accuracy.low
        if guess and low <= guess.mean:
            labels = labels_name(cell.fraction, summary.labels[cell.fraction])
            names.append(f"{arm_name(cell.arm)} at {labels}")
    if not names:
        return ""
    return f"Not shown to be above the untrained guess ({baseline}): {'; '.join(names)}."


def _costs(summary: Summary) -> str:
    cost: dict[str, float] = {}
    for arm in summary.arms:
        cells = [c for c in summary.cells if c.arm == arm and c.cpu_seconds is not None]
        if cells:
            cost[arm] = statistics.fmean(cell.cpu_seconds or 0.0 for cell in cells)
    if not cost:
        return ""
    listed = ", ".join(f"{arm_name(arm)} {seconds:.1f}" for arm, seconds in cost.items())
    text = f"CPU-seconds of a run, mean: {listed}. Equal updates are not equal compute"
    ratio = _ratio(cost.get)
    return f"{text}: {ratio}." if ratio else f"{text}."


def _ratio(cost: Callable[[str], float | None]) -> str:
    ours = cost("step_by_step")
    parts = [
        f"{ours / base:.2f} times {name}"
        for arm, name in ARM_NAMES.items()
        if ours and arm in ("standard", "standard_2x") and (base := cost(arm))
    ]
    return f"step-by-step cost {' and '.join(parts)}" if parts else ""
