"""Lays out a study's numbers as tables and sentences, for a terminal and for the page."""

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from sbs_jax.reporting import significance
from sbs_jax.reporting.rows import ARM_NAMES, TEACHER, Failure, arm_name, labels_name
from sbs_jax.reporting.significance import Estimate, PairTable
from sbs_jax.reporting.statistics import Difference, Summary


@dataclasses.dataclass(frozen=True)
class Table:
    """Text fields in columns.

    Attributes:
        alignment: "<" or ">" for every column.
        detail: for the page and the files, not for a terminal.
    """

    caption: str
    heads: Sequence[str]
    alignment: str
    lines: Sequence[Sequence[str]]
    detail: bool = False

    def text(self) -> str:
        """For a terminal: the caption, the heads, a line per row, in aligned columns."""
        rows = [self.heads, *self.lines]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = (
            "  ".join(f"{f:{a}{w}}" for f, a, w in zip(row, self.alignment, widths, strict=True))
            for row in rows
        )
        return "\n".join([self.caption, *(line.rstrip() for line in padded)])

    def markdown(self) -> str:
        """As a Markdown table under its caption."""
        rules = ["---:" if side == ">" else "---" for side in self.alignment]
        rows = [self.heads, rules, *self.lines]
        piped = ("| " + " | ".join(f.replace("|", "\\|") for f in row) + " |" for row in rows)
        return "\n".join([f"**{self.caption}**", "", *piped])

    def to_json(self) -> dict[str, object]:
        """Caption, heads and lines as they are shown."""
        return {"caption": self.caption, "heads": list(self.heads), "lines": self.lines}


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


_DIFFERENCE_HEADS = ("mean", "95% interval", "seeds", "n", "p", "Holm p", "detectable", "reading")


def teacher_table(summary: Summary) -> Table:
    """Every arm minus the teacher, on the questions that the teacher answered."""
    lines = [
        (
            labels_name(d.fraction, summary.labels[d.fraction]),
            arm_name(d.arm),
            f"{d.arm_accuracy:.3f}",
            f"{d.base_accuracy:.3f}",
            *_difference_fields(d),
        )
        for d in summary.against(teacher=True)
    ]
    heads = ("labels", "student", "accuracy", "teacher", *_DIFFERENCE_HEADS)
    caption = "Student minus teacher in test accuracy, on the same questions"
    return Table(caption, heads, "<<>>>>>>>>><", lines)


def difference_table(summary: Summary) -> Table:
    """Step-by-step minus each other arm."""
    lines = [
        (
            labels_name(d.fraction, summary.labels[d.fraction]),
            f"{arm_name(d.arm)} minus {arm_name(d.base)}",
            *_difference_fields(d),
        )
        for d in summary.against(teacher=False)
    ]
    heads = ("labels", "difference", *_DIFFERENCE_HEADS)
    caption = "Differences in test accuracy, paired by seed and question"
    return Table(caption, heads, "<<>>>>>>><", lines)


def _difference_fields(difference: Difference) -> tuple[str, ...]:
    estimate = difference.accuracy
    detectable = estimate.detectable
    return (
        *_shown(estimate, sign="+"),
        str(estimate.questions),
        p_value(estimate.p),
        p_value(difference.holm),
        "-" if detectable is None else f"{detectable:.3f}",
        difference.reading,
    )


PAIR_HEADS = (
    "n",
    "both right",
    "student only",
    "teacher only",
    "neither",
    "difference",
    "95% bootstrap",
    "McNemar p",
)


def pair_fields(table: PairTable) -> tuple[str, ...]:
    """A 2x2 table as text, under `PAIR_HEADS`."""
    counts = (table.n, table.both, table.student_only, table.teacher_only, table.neither)
    interval = f"[{table.low:+.3f}, {table.high:+.3f}]"
    return (*map(str, counts), f"{table.difference:+.3f}", interval, p_value(table.p))


def pair_table(summary: Summary) -> Table:
    """Each run and the teacher on the same questions, as counts."""
    lines = []
    for row, table in ((pair.row, pair.table) for pair in summary.pairs):
        name = labels_name(row.fraction, row.train_examples)
        lines.append((name, arm_name(row.arm), str(row.seed), *pair_fields(table)))
    heads = ("labels", "student", "seed", *PAIR_HEADS)
    return Table(
        "Each student against the teacher: who is right", heads, "<<>>>>>>>>>", lines, detail=True
    )


def failure_table(failures: Sequence[Failure]) -> Table:
    """The runs that did not finish, or whose files are not whole, each with its reason."""
    lines = [
        (arm_name(failure.arm), f"{100 * failure.fraction:.4g}%", str(failure.seed), failure.reason)
        for failure in failures
    ]
    heads = ("arm", "labels", "seed", "reason")
    caption = "Runs that failed or are not finished, or whose files are missing or damaged"
    return Table(caption, heads, "<>><", lines)


def p_value(p: float | None) -> str:
    """0.0123, or a bound where four digits would show 0."""
    if p is None:
        return "-"
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _shown(value: Estimate, sign: str = "") -> tuple[str, str, str]:
    """(mean, interval, seeds) as text."""
    interval = "-"
    if value.low is not None and value.high is not None:
        interval = f"[{value.low:{sign}.3f}, {value.high:{sign}.3f}]"
    return f"{value.mean:{sign}.3f}", interval, str(value.seeds)


def remarks(summary: Summary, baseline: str = "majority label") -> list[str]:
    """Sentences about how far the numbers carry, computed from them."""
    sentences = []
    if text := _not_above_baseline(summary, baseline):
        sentences.append(text)
    sentences += _how_sure(summary)
    if text := _costs(summary):
        sentences.append(text)
    if summary.teacher:
        sentences.append(
            "The teacher's accuracy is its labels on the same test questions, scored by the same "
            "code, an unreadable answer being a wrong one; its interval is Wilson's over questions."
        )
    return sentences


def _how_sure(summary: Summary) -> list[str]:
    seeds = sorted({cell.accuracy.seeds for cell in summary.cells})
    runs = "one seed" if seeds == [1] else f"{' or '.join(map(str, seeds))} seeds"
    design = {
        True: "all seeds answer the same test questions, and intervals cover the chance of both, "
        "seeds and questions (crossed random effects)",
        False: "each seed has different test questions, and Student's t over seeds covers both",
        None: "predictions are missing, so intervals are over seeds alone and nothing is read",
    }[summary.shared]
    if seeds == [1]:
        design = "intervals are over questions and say nothing about other seeds"
    holm = (
        f"p holds for one comparison; Holm p for all {len(summary.against(teacher=True))} with the "
        f"teacher, or all {len(summary.against(teacher=False))} between arms, at once."
    )
    return [
        f"Over {runs} per cell: {design}. A reading is printed from {significance.FEWEST_SEEDS} "
        f"seeds and {significance.FEWEST_CONTESTED} differently answered questions upwards; where "
        "both are equally good it errs in 3-7% of studies (simulated). Detectable: the smallest "
        "true difference found with a power of 80%.",
        holm,
    ]


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
