"""Scores a file of answers whose questions had labels."""

import os
from pathlib import Path

from sbs_jax.metrics.accuracy import Accuracy, score
from sbs_jax.runs.reader import read_run
from sbs_jax.utils import jsonl
from sbs_jax.utils.buckets import place


def summary(answers: Path, model_dir: str | os.PathLike[str]) -> str | None:
    """The accuracy on the questions that have a label, by the run's metric; None if none has.

    Args:
        answers: a whole file of `sbs predict`.
        model_dir: of the run; before it has finished, labels are compared as text.
    """
    rows = (row for _, row in jsonl.objects(answers))
    pairs = [(row["label"], row["gold"]) for row in rows if _is_label(row.get("gold"))]
    if not pairs:
        return None
    metric = (read_run(place(model_dir)).results or {}).get("metric", "text")
    if metric not in ("text", "equation"):
        return f"{answers}: not scored: {metric} is a function of the dataset's (sbs evaluate)"
    accuracy = Accuracy.of(score(metric, label, gold) for label, gold in pairs)
    return f"{answers}: accuracy {accuracy} of the questions with a label (metric {metric})"


def _is_label(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
