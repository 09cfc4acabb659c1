"""A cascade: the student answers what it is sure of, the teacher the rest.

The threshold is on the confidence that predictions files hold, as `sbs predict
--ask_teacher_below` reads it. A threshold picked on the test questions would flatter the cascade,
so the one that is compared with the teacher is chosen on validation.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.reporting import significance
from sbs_jax.reporting.tables import PAIR_HEADS, Table, pair_fields

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_NONE_KEPT = 2.0  # above every confidence


@dataclasses.dataclass(frozen=True)
class Scores:
    """The data of a cascade: one value per question that the teacher answered.

    Attributes:
        confidence: of the student, 0 to 1.
        student, teacher: scores of their labels, 0 to 1.
    """

    confidence: Float[np.ndarray, " questions"]
    student: Float[np.ndarray, " questions"]
    teacher: Float[np.ndarray, " questions"]

    def together(self, threshold: float) -> Float[np.ndarray, " questions"]:
        """Scores of the student where it is at least so confident, of the teacher elsewhere."""
        return np.where(self.confidence >= threshold, self.student, self.teacher)


@dataclasses.dataclass(frozen=True)
class Step:
    """A cascade at one threshold.

    Attributes:
        threshold: lowest confidence of an answer that the student keeps.
        student: its accuracy on the questions it keeps.
        both: accuracy of the two together on all questions.
    """

    threshold: float
    student: Accuracy
    both: Accuracy

    @property
    def kept(self) -> float:
        """Share of the questions that the student keeps, and of the teacher's cost saved."""
        return self.student.n / self.both.n


def steps(scores: Scores, thresholds: Sequence[float] = THRESHOLDS) -> list[Step]:
    """The cascade at several thresholds."""
    return [
        Step(
            threshold,
            Accuracy.of(scores.student[scores.confidence >= threshold].tolist()),
            Accuracy.of(scores.together(threshold).tolist()),
        )
        for threshold in thresholds
    ]


def choose(validation: Scores, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """The threshold whose cascade is most accurate (ties: the one that saves most)."""
    best = max(steps(validation, thresholds), key=lambda step: (step.both.value, step.kept))
    return best.threshold


def step_table(
    name: str,
    scores: Scores,
    thresholds: Sequence[float] = THRESHOLDS,
    price: float | None = None,
) -> Table:
    """A line per threshold, the teacher alone at the end.

    Args:
        name: of the run, for the caption.
        price: of one question to the teacher, in the user's currency.
    """
    n = len(scores.teacher)
    lines = []
    for step in steps(scores, (*thresholds, _NONE_KEPT)):
        alone = step.threshold == _NONE_KEPT
        passed_on = step.both.n - step.student.n
        lines.append(
            (
                "teacher alone" if alone else f"{step.threshold:.2f}",
                str(step.student.n),
                *_shown(step.student),
                *_shown(step.both),
                f"{step.kept:.1%}",
                *([] if price is None else [f"{1000 * price * passed_on / n:.4g}"]),
            )
        )
    heads = (
        "confidence from",
        "kept by the student",
        "its accuracy",
        "its 95% interval",
        "student, then teacher",
        "95% interval",
        "cost saved",
        *([] if price is None else ["cost of 1,000"]),
    )
    caption = (
        f"Cascade: {name}; the teacher answers what is not kept (n = {n}), and its cost is saved "
        "on what is"
    )
    return Table(caption, heads, ">" * len(heads), lines, detail=True)


def _shown(accuracy: Accuracy) -> tuple[str, str]:
    """(Accuracy, Wilson interval) as text."""
    if not accuracy.n:
        return "-", "-"
    low, high = accuracy.ci95
    return f"{accuracy.value:.3f}", f"[{low:.3f}, {high:.3f}]"


def chosen_table(
    name: str, scores: Scores, validation: Scores, thresholds: Sequence[float] = THRESHOLDS
) -> Table:
    """Compares the cascade at the threshold chosen on validation with the teacher alone.

    It has no line where a metric gives shares of right answers, which a 2x2 table cannot hold.
    """
    threshold = choose(validation, thresholds)
    together, teacher = scores.together(threshold), scores.teacher
    lines = []
    if np.isin([together, teacher], (0, 1)).all():
        (step,) = steps(scores, [threshold])
        pair = significance.pair_table(together, teacher)
        lines.append((f"{threshold:.2f}", f"{step.kept:.1%}", *pair_fields(pair)))
    heads = ("threshold", "kept", *(head.replace("student", "cascade") for head in PAIR_HEADS))
    caption = (
        f"Cascade against the teacher alone: {name}; the threshold is the best of "
        f"{len(thresholds)} on validation (n = {len(validation.teacher)})"
    )
    return Table(caption, heads, ">" * len(heads), lines, detail=True)
