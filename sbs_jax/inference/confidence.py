"""How sure a student is: probabilities of its labels, and the questions to pass to the teacher."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sbs_jax.errors import UserError
from sbs_jax.runs import layout
from sbs_jax.utils import jsonl
from sbs_jax.utils.files import write_lines

CONFIDENCE, PROBABILITIES = "confidence", "label_probabilities"

# Labels of a run are taken for a closed set if there are few, and each is met again and again.
_MAX_LABELS = 50
_MIN_REPEATS = 3.0


def closed_set(model_dir: str | Path, step: int) -> list[str]:
    """The labels a student chooses from: the gold labels of its run's predictions files.

    Empty where the run left no such file for the step, or its labels are open answers: more than
    50 of them, or fewer than three questions per label.
    """
    counts: dict[str, int] = {}
    for split in ("validation", "test"):
        for path in layout.find_predictions(model_dir, split, step):
            for _, row in jsonl.objects(path):
                if isinstance(row.get("gold"), str):
                    counts[row["gold"]] = counts.get(row["gold"], 0) + 1
    if not 2 <= len(counts) <= _MAX_LABELS or sum(counts.values()) < _MIN_REPEATS * len(counts):
        return []
    return sorted(counts)


def among(
    labels: Sequence[str], scores: Sequence[float], answer: str, answer_score: float | None
) -> dict[str, object]:
    """The fields of an answer from a closed set.

    Args:
        labels: of the set.
        scores: natural logarithm of each label's probability among all outputs.
        answer: the student's label.
        answer_score: the same of the answer, where it is none of the labels; it then competes with
            them.

    Returns:
        ``confidence``, the answer's share of the probability, and ``label_probabilities``, the
        labels' shares.
    """
    logits = np.array([*scores, *([] if answer_score is None else [answer_score])], np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    named = {label: round(float(p), 6) for label, p in zip(labels, shares, strict=False)}
    confidence = shares[-1] if answer_score is not None else shares[labels.index(answer)]
    return {CONFIDENCE: round(float(confidence), 6), PROBABILITIES: named}


def of_open_answer(score: float) -> dict[str, object]:
    """The field of an open answer: the probability of exactly this output, its end included."""
    return {CONFIDENCE: round(math.exp(score), 6)}


def pass_to_teacher(answers: Path, below: float, out: Path) -> int:
    """Writes the questions with a confidence below a bound as an input file of `sbs annotate`.

    Args:
        answers: a finished output of `sbs predict --confidence`.
        below: the bound.
        out: is replaced; rows have id, input and the question's other fields, under the names that
            `sbs annotate` reads.

    Returns:
        Number of questions written.

    Raises:
        UserError: a file cannot be read or written.
    """
    lines = []
    for where, row in jsonl.objects(answers):
        if not isinstance(row.get(CONFIDENCE), int | float):
            raise UserError(f"{where}: no field {CONFIDENCE}; run sbs predict --confidence")
        if row[CONFIDENCE] < below:
            lines.append(json.dumps(_question(row), ensure_ascii=False) + "\n")
    try:
        write_lines(out, lines)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return len(lines)


def _question(row: Mapping[str, object]) -> dict[str, object]:
    """A row of the answers as the question it was: without the student's own fields."""
    student = {"label", "rationale", CONFIDENCE, PROBABILITIES}
    question = {name: value for name, value in row.items() if name not in student}
    if "gold" in question:
        question["label"] = question.pop("gold")
    return question
