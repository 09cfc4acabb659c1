"""Costs of a student per arm: updates, time, speed and size."""

import statistics
from collections.abc import Mapping, Sequence

from sbs_jax.reporting.rows import TEACHER, Row, arm_name, labels_name
from sbs_jax.reporting.tables import Table
from sbs_jax.runs.reader import Run

_BYTES = 4  # of a float32 parameter
_PACE = "test/seconds_per_question"


def cost_table(rows: Sequence[Row], runs: Mapping[Row, Run]) -> Table:
    """Means over the seeds of every arm and fraction; speed is the median over logged steps."""
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.fraction, row.arm), []).append(row)
    lines = []
    for (fraction, arm), group in sorted(groups.items(), key=lambda item: item[0][0]):
        of_group = [runs[row] for row in group if row in runs]
        lines.append(
            (
                labels_name(fraction, group[0].train_examples),
                arm_name(arm),
                str(group[0].steps),
                _mean([row.cpu_seconds for row in group], ".1f"),
                _mean([_speed(run) for run in of_group], ".0f"),
                *_size(of_group),
            )
        )
    heads = ("labels", "arm", "updates", "CPU s", "examples/s", "parameters", "float32 MB")
    return Table(
        "Cost of a run: mean over seeds, the updates alone", heads, "<<>>>>>", lines, detail=True
    )


def size_table(
    rows: Sequence[Row], runs: Mapping[Row, Run], teacher_parameters: float | None
) -> Table:
    """Bytes and time per answer of every size of student, and the teacher's bytes where known.

    Time is that of decoding labels in batches on the machine of the run, of the last evaluation.
    """
    arms: dict[str, list[Run]] = {}
    for row in rows:
        if row in runs and parameters(runs[row]):
            arms.setdefault(row.arm, []).append(runs[row])
    lines = []
    for arm, of_arm in arms.items():
        count = parameters(of_arm[0]) or 0
        times = "-" if teacher_parameters is None else f"{teacher_parameters / count:,.0f}"
        seconds = [_seconds_per_question(run) for run in of_arm]
        latency = _mean([None if s is None else 1000 * s for s in seconds], ".3g")
        lines.append((arm_name(arm), f"{count:,}", f"{count * _BYTES / 1e6:,.1f}", latency, times))
    if lines and teacher_parameters is not None:
        size = f"{teacher_parameters * _BYTES / 1e6:,.1f}"
        lines.append((TEACHER, f"{teacher_parameters:,.0f}", size, "-", "1"))
    heads = ("answers", "parameters", "float32 MB", "ms per answer", "teacher is x times larger")
    return Table("Size and time of an answer", heads, "<>>>>", lines, detail=True)


def _seconds_per_question(run: Run) -> float | None:
    points = run.curves([_PACE]).get(_PACE)
    return points[-1][1] if points else None


def _mean(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return format(statistics.fmean(known), form) if known else "-"


def _speed(run: Run) -> float | None:
    speeds = [line["examples_per_second"] for line in run.metrics if "examples_per_second" in line]
    return statistics.median(speeds) if speeds else None


def parameters(run: Run) -> int | None:
    """The student's parameter count; None if results.json lacks it."""
    return (run.results or {}).get("model", {}).get("parameters")


def sizes(runs: Mapping[Row, Run]) -> dict[str, float]:
    """Arm -> parameters of its students, of the arms that tell."""
    return {row.arm: float(size) for row, run in runs.items() if (size := parameters(run))}


def _size(runs: Sequence[Run]) -> tuple[str, str]:
    sizes = {parameters(run) for run in runs} - {None}
    if len(sizes) != 1:
        return "-", "-"
    size = sizes.pop() or 0
    return f"{size:,}", f"{size * _BYTES / 1e6:,.1f}"
