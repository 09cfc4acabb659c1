"""Says whether the student beats the teacher, how surely, and on how little data."""

from collections.abc import Mapping

from sbs_jax.reporting.figures import size_name
from sbs_jax.reporting.rows import STEP_BY_STEP, TEACHER, arm_name, labels_name
from sbs_jax.reporting.statistics import Difference, Summary
from sbs_jax.reporting.tables import p_value


def sentences(summary: Summary) -> list[str]:
    """The headline about the main arm with all its labels, then the least data of every arm."""
    against = summary.against(teacher=True)
    if not against:
        return [
            "No verdict: the runs do not tell which test questions the teacher answered rightly. "
            "Annotate the test split too (sbs annotate), and evaluate again."
        ]
    main = _main_arm(summary)
    largest = max((d for d in against if d.arm == main), key=lambda d: d.fraction)
    return [_headline(largest, summary), *_least_data(summary)]


def _main_arm(summary: Summary) -> str:
    """Fixed before any score is seen: the first step-by-step arm, or else the last arm."""
    arms = list(dict.fromkeys(d.arm for d in summary.against(teacher=True)))
    return next((arm for arm in arms if arm.split("@")[0] in STEP_BY_STEP), arms[-1])


def _headline(difference: Difference, summary: Summary) -> str:
    estimate = difference.accuracy
    student = f"{arm_name(difference.arm)} with {_labels(difference.fraction, summary)} labels"
    accuracies = f"{difference.arm_accuracy:.3f} against {difference.base_accuracy:.3f}"
    size = f"{estimate.seeds} seed{'s' if estimate.seeds > 1 else ''}, n = {estimate.questions}"
    if estimate.low is None or estimate.high is None or not estimate.readable:
        reason = difference.reading.removeprefix("no reading: ")
        return f"No verdict on {student} and the {TEACHER} ({accuracies}; {size}): {reason}."
    numbers = (
        f"{accuracies}, difference {estimate.mean:+.3f} [{estimate.low:+.3f}, "
        f"{estimate.high:+.3f}], p {_p(estimate.p)}, Holm p {_p(difference.holm)}; {size}"
    )
    if difference.reading == "higher":
        return f"The student beats the teacher: {student} is more accurate ({numbers})."
    if difference.reading == "lower":
        return f"The teacher is better: {student} is less accurate ({numbers})."
    return (
        f"No difference between student and teacher is shown: {student} ({numbers}). A true "
        f"difference of {estimate.detectable:.3f} would have been found with a power of 80%."
    )


def _least_data(summary: Summary) -> list[str]:
    """Which data each arm needs."""
    least = summary.least_data()
    if not least:
        return []
    parts = [
        f"{arm_name(arm)} "
        f"{'none of the fractions tried' if fraction is None else _labels(fraction, summary)}"
        for arm, fraction in least.items()
    ]
    return [
        "Least data with which a student is shown to beat the teacher (95%, corrected for all "
        f"{len(summary.against(teacher=True))} comparisons): {'; '.join(parts)}."
    ]


def smallest(
    summary: Summary, sizes: Mapping[str, float], teacher_parameters: float | None
) -> list[str]:
    """The smallest student that is shown to beat the teacher, where students of several sizes are.

    Args:
        sizes: parameters of the arms.
        teacher_parameters: None where that is unknown.
    """
    least = {arm: f for arm, f in summary.least_data().items() if arm in sizes}
    if len({sizes[arm] for arm in least}) < 2:
        return []
    won = {arm: fraction for arm, fraction in least.items() if fraction is not None}
    if not won:
        return [f"Smallest student shown to beat the {TEACHER}: none of the sizes tried."]
    arm = min(won, key=lambda arm: (sizes[arm], won[arm]))
    size = f"{size_name(sizes[arm])} parameters"
    if teacher_parameters is not None:
        size += f", 1/{teacher_parameters / sizes[arm]:,.0f} of the {TEACHER}'s"
    labels = _labels(won[arm], summary)
    return [
        f"Smallest student shown to beat the {TEACHER}: {arm_name(arm)} ({size}) with {labels} "
        "labels."
    ]


def _labels(fraction: float, summary: Summary) -> str:
    return labels_name(fraction, summary.labels[fraction])


def _p(value: float | None) -> str:
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"
