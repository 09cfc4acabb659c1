"""Scores a file of answers whose questions had labels."""

import os
from pathlib import Path
from typing import cast, get_args

from sbs_jax.input_pipeline.label_check import written
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.metrics.accuracy import Accuracy, Name, score
from sbs_jax.runs import layout
from sbs_jax.runs.reader import read_results
from sbs_jax.utils import jsonl
from sbs_jax.utils.buckets import place


def metric_of(model_dir: str | os.PathLike[str]) -> str:
    """The metric that a run was scored by; before it has finished, text."""
    path = place(model_dir) / layout.RESULTS
    return read_results(path).get("metric", "text") if path.is_file() else "text"


def summary(answers: Path, metric: str, vocabulary: Vocabulary) -> str | None:
    """The accuracy on the questions that have a label; None if none has.

    Args:
        answers: a whole file of `sbs predict`.
        metric: of the run.
        vocabulary: of the student; labels are compared as it writes them, as in the evaluation.
    """
    rows = (row for _, row in jsonl.objects(answers))
    pairs = [
        (row["label"], written(vocabulary, row["gold"]))
        for row in rows
        if _is_label(row.get("gold"))
    ]
    if not pairs:
        return None
    if metric not in get_args(Name):
        return f"{answers}: not scored: {metric} is a function of the dataset's (sbs evaluate)"
    accuracy = Accuracy.of(score(cast(Name, metric), label, gold) for label, gold in pairs)
    line = f"{answers}: accuracy {accuracy} of the questions with a label (metric {metric})"
    if accuracy.correct:
        return line
    label, gold = pairs[0]
    return f"{line}; no answer is its label: an answer is {label!r}, its label {gold!r}"


def _is_label(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
