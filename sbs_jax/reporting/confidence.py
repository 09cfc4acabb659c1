"""How well a student knows what it knows: calibration; and what `cascade` makes of it.

Predictions files have these numbers where the student's confidence was asked for. Nothing here is
shown for runs without them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sbs_jax.reporting import cascade
from sbs_jax.reporting.answers import Answers
from sbs_jax.reporting.cascade import Scores
from sbs_jax.reporting.tables import Table

FIELD, PROBABILITIES = "confidence", "label_probabilities"
_BINS = 10
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
    if not rows or not all(row.get(PROBABILITIES) for row in rows):
        return None
    losses = np.zeros(len(_TEMPERATURES))
    for row in rows:
        if row["gold"] in row[PROBABILITIES]:
            scaled = _scaled(_shares(row), _TEMPERATURES)
            place = list(row[PROBABILITIES]).index(row["gold"])
            losses -= np.log(np.maximum(scaled[:, place], 1e-12))
    return float(_TEMPERATURES[int(losses.argmin())])


def _shares(row: Mapping[str, Any]) -> list[float]:
    """The probabilities of all labels, and of the answer where it is none of them."""
    shares = list(row[PROBABILITIES].values())
    if row.get("label", row["gold"]) not in row[PROBABILITIES]:
        shares.append(max(0.0, 1.0 - sum(shares)))
    return shares


def _scaled(probabilities: Sequence[float], temperatures: np.ndarray) -> np.ndarray:
    """[temperatures, labels]: the softmax of log p / T."""
    logits = np.log(np.maximum(probabilities, 1e-12))[None] / np.atleast_1d(temperatures)[:, None]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def with_temperature(
    rows: Sequence[Mapping[str, Any]], temperature: float
) -> Float[np.ndarray, " rows"]:
    """The confidences of the answers after scaling; 0, as before it, of one outside the set."""
    return np.array([_after(row, temperature) for row in rows])


def _after(row: Mapping[str, Any], temperature: float) -> float:
    labels = list(row[PROBABILITIES])
    if row["label"] not in labels:
        return 0.0
    scaled = _scaled(_shares(row), np.array(temperature))
    return float(scaled[0, labels.index(row["label"])])


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


def cascade_scores(rows: Sequence[Mapping[str, Any]]) -> Scores | None:
    """Of the questions that the teacher answered; None without confidences or without any such."""
    answered = [row for row in rows if row.get("teacher_label") is not None]
    confidence = confidences(rows)
    if confidence is None or not answered:
        return None
    kept = [row.get("teacher_label") is not None for row in rows]
    student, teacher = (
        np.array([float(row[name]) for row in answered]) for name in ("correct", "teacher_correct")
    )
    return Scores(confidence[kept], student, teacher)


def confidence_tables(
    name: str,
    answers: Answers,
    validation: Sequence[Mapping[str, Any]],
    thresholds: Sequence[float] = cascade.THRESHOLDS,
    price: float | None = None,
) -> list[Table]:
    """Calibration and cascade of one run; none without confidences.

    Args:
        name: of the run, for the captions.
        answers: to the test questions.
        validation: predictions that the temperature and the threshold are chosen on.
        thresholds: of the cascade.
        price: of one question to the teacher.
    """
    confidence = confidences(answers.rows)
    if confidence is None:
        return []
    right = np.array([float(row["correct"]) for row in answers.rows])
    tables = [_calibration(name, answers.rows, confidence, right, validation)]
    scores = cascade_scores(answers.rows)
    if scores is None or not answers.with_teacher.any():
        return tables
    tables.append(cascade.step_table(name, scores, thresholds, price))
    if on_validation := cascade_scores(validation):
        tables.append(cascade.chosen_table(name, scores, on_validation, thresholds))
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
