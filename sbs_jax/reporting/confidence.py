"""How well a student knows what it knows: calibration, and a cascade to the teacher.

Predictions files have these numbers where the student's confidence was asked for. Nothing here is
shown for runs without them.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sbs_jax.reporting.answers import Answers
from sbs_jax.reporting.tables import Table

FIELD, PROBABILITIES = "confidence", "label_probabilities"
_BINS = 10
_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_TEMPERATURES = np.geomspace(0.1, 10, 401)  # steps of 1.2%


def confidences(rows: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, " rows"] | None:
    """Of every answer; None unless all rows have one."""
    values = [row.get(FIELD) for row in rows]
    if not values or not all(isinstance(value, int | float) for value in values):
        return None
    return np.array(values, np.float64)


def calibration_error(
    confidence: Float[np.ndarray, " rows"], right: Float[np.ndarray, " rows"]
) -> float:
    """ECE (Naeini et al. 2015): the mean distance of accuracy and confidence over 10 equal bins."""
    places = _bins(confidence)
    gaps = [
        abs(confidence[places == b].mean() - right[places == b].mean()) * (places == b).mean()
        for b in np.unique(places)
    ]
    return float(sum(gaps))


def _bins(confidence: Float[np.ndarray, " rows"]) -> np.ndarray:
    return np.minimum((confidence * _BINS).astype(int), _BINS - 1)


def fit_temperature(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The temperature (Guo et al. 2017) that makes the gold labels of validation most probable.

    None where the rows have no probabilities of all labels.
    """
    probabilities = [row.get(PROBABILITIES) for row in rows]
    if not rows or not all(probabilities):
        return None
    losses = np.zeros(len(_TEMPERATURES))
    for row, of_labels in zip(rows, probabilities, strict=True):
        assert of_labels is not None, "checked above"
        if row["gold"] not in of_labels:
            continue
        gold = list(of_labels).index(row["gold"])
        scaled = _scaled(list(of_labels.values()), _TEMPERATURES)
        losses -= np.log(np.maximum(scaled[:, gold], 1e-12))
    return float(_TEMPERATURES[int(losses.argmin())])


def _scaled(probabilities: Sequence[float], temperatures: np.ndarray) -> np.ndarray:
    """[temperatures, labels]: the softmax of log p / T."""
    logits = np.log(np.maximum(probabilities, 1e-12))[None] / np.atleast_1d(temperatures)[:, None]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def with_temperature(
    rows: Sequence[Mapping[str, Any]], temperature: float
) -> Float[np.ndarray, " rows"]:
    """The confidences of the answers after scaling: the largest share among the labels."""
    return np.array(
        [_scaled(list(row[PROBABILITIES].values()), np.array(temperature)).max() for row in rows]
    )


@dataclasses.dataclass(frozen=True)
class Step:
    """The student answers what it is confident of, the teacher the rest.

    Attributes:
        threshold: lowest confidence of an answer that the student keeps.
        kept: share of the questions that it keeps: the share of the teacher's cost that is saved.
        student: its accuracy on those; nan of none.
        both: accuracy of the two together on all questions.
    """

    threshold: float
    kept: float
    student: float
    both: float


def cascade(
    confidence: Float[np.ndarray, " rows"],
    student: Float[np.ndarray, " rows"],
    teacher: Float[np.ndarray, " rows"],
) -> list[Step]:
    """Student-then-teacher at several thresholds; the scores are of the same questions."""
    steps = []
    for threshold in _THRESHOLDS:
        keeps = confidence >= threshold
        of_kept = float(student[keeps].mean()) if keeps.any() else math.nan
        both = float(np.where(keeps, student, teacher).mean())
        steps.append(Step(threshold, float(keeps.mean()), of_kept, both))
    return steps


@dataclasses.dataclass(frozen=True)
class Curve:
    """What a run's confidence is worth.

    Attributes:
        bins: (mean confidence, accuracy) of each bin of `calibration_error`.
        coverage: (share of the questions kept, accuracy on them), the surest first.
    """

    arm: str
    name: str
    bins: list[tuple[float, float]]
    coverage: list[tuple[float, float]]


def curve(arm: str, name: str, answers: Answers) -> Curve | None:
    """None for a run without confidences."""
    confidence = confidences(answers.rows)
    if confidence is None:
        return None
    right = np.array([float(row["correct"]) for row in answers.rows])
    places = _bins(confidence)
    bins = [
        (float(confidence[places == b].mean()), float(right[places == b].mean()))
        for b in np.unique(places)
    ]
    order = np.argsort(-confidence, kind="stable")
    # Answers of equal confidence are kept or passed on together.
    ends = np.flatnonzero(np.diff(confidence[order], append=-1.0))
    means = np.cumsum(right[order]) / np.arange(1, len(right) + 1)
    coverage = [(float((end + 1) / len(right)), float(means[end])) for end in ends]
    return Curve(arm, name, bins, coverage)


def confidence_tables(
    name: str, answers: Answers, validation: Sequence[Mapping[str, Any]]
) -> list[Table]:
    """Calibration and cascade of one run; none without confidences.

    Args:
        name: of the run, for the captions.
        answers: to the test questions.
        validation: predictions that the temperature is fitted on.
    """
    confidence = confidences(answers.rows)
    if confidence is None:
        return []
    right = np.array([float(row["correct"]) for row in answers.rows])
    tables = [_calibration(name, answers.rows, confidence, right, validation)]
    labelled = [row.get("teacher_label") is not None for row in answers.rows]
    if any(labelled) and answers.with_teacher.any():
        teacher = np.array([float(row["teacher_correct"]) for row in answers.rows])
        steps = cascade(confidence[labelled], right[labelled], teacher[labelled])
        tables.append(_cascade(name, steps, sum(labelled)))
    return tables


def _calibration(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    confidence: Float[np.ndarray, " rows"],
    right: Float[np.ndarray, " rows"],
    validation: Sequence[Mapping[str, Any]],
) -> Table:
    places = _bins(confidence)
    lines = []
    for b in np.unique(places):
        inside = places == b
        means = (f"{of[inside].mean():.3f}" for of in (confidence, right))
        lines.append((f"{b / _BINS:.1f} to {(b + 1) / _BINS:.1f}", str(inside.sum()), *means))
    error = f"ECE {calibration_error(confidence, right):.3f}"
    temperature = fit_temperature(validation)
    if temperature is not None and all(row.get(PROBABILITIES) for row in rows):
        after = calibration_error(with_temperature(rows, temperature), right)
        error += f", {after:.3f} at the temperature {temperature:.2f} fitted on validation"
    caption = f"Calibration: {name}; {error}"
    return Table(caption, ("confidence", "n", "mean", "accuracy"), "<>>>", lines, detail=True)


def _cascade(name: str, steps: Sequence[Step], n: int) -> Table:
    lines = [
        (
            f"{step.threshold:.2f}",
            f"{step.kept:.3f}",
            "-" if math.isnan(step.student) else f"{step.student:.3f}",
            f"{step.both:.3f}",
        )
        for step in steps
    ]
    heads = ("confidence from", "kept by the student", "its accuracy", "student, then teacher")
    caption = (
        f"Cascade: {name}; the teacher answers what is not kept (n = {n}): the share kept is the "
        "share of the teacher's cost that is saved"
    )
    return Table(caption, heads, ">>>>", lines, detail=True)
