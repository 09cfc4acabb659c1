"""Fingerprints what a score belongs to: questions, gold labels, metric and decoding length.

Two scores compete (best checkpoint), replace each other (results.json) or are averaged (rows of a
study) only if their fingerprints are equal. Needs no jax, so that reports can use it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sbs_jax.datasets.registry import Dataset
from sbs_jax.datasets.splits import TEST, VALIDATION
from sbs_jax.metrics.accuracy import Metric
from sbs_jax.runs import metric_identity

_DIGITS = 16  # hexadecimal; also in results.json and scores.json


class ScoreIdentity(NamedTuple):
    """The fingerprints of one scored split, 16 hexadecimal digits each.

    Attributes:
        fingerprint: of the questions as the student reads them, without prefix, their gold
            labels, the metric and the decoding length; independent of the order.
        questions: of the dataset's inputs and gold labels alone: equal for all methods.
    """

    fingerprint: str
    questions: str


def identify(
    inputs: Sequence[str],
    student_inputs: Sequence[str],
    golds: Sequence[str],
    metric: Metric,
    max_decode_length: int,
) -> ScoreIdentity:
    """Fingerprints a split that is about to be scored.

    Args:
        inputs: the records' inputs.
        student_inputs: what it reads; differs from `inputs` for methods that add a rationale.
        golds: gold labels, one per question.
        metric: "text", "equation" or a function, which counts by what `metric_identity` sees.
        max_decode_length: maximum number of new tokens of an answer.
    """
    questions = sorted(_hash(pair) for pair in zip(inputs, golds, strict=True))
    scored = sorted(_hash(pair) for pair in zip(student_inputs, golds, strict=True))
    return ScoreIdentity(
        fingerprint=_hash([scored, metric_identity.texts(metric), max_decode_length]),
        questions=_hash(questions),
    )


def of_dataset(dataset: Dataset) -> dict[str, str]:
    """Fingerprints of what a run is scored on, for run.json: they may change between its starts.

    A validation split that is carved from the training file is fingerprinted with that.
    """
    carved = dataset.carve_validation is not None
    scored = (TEST,) if carved else (VALIDATION, TEST)
    return {
        **{f"{split}_fingerprint": dataset.fingerprint(split) for split in scored},
        "metric_fingerprint": _hash(metric_identity.texts(dataset.metric)),
    }


def same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two objects with a field `fingerprint` hold scores of the same kind.

    A score without fingerprint (of an earlier version) is only like others without one.
    """
    return first.get("fingerprint") == second.get("fingerprint")


def groups(scores: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Scores that may be averaged, by `same`, in order of first appearance."""
    by_fingerprint: dict[str | None, list[Mapping[str, Any]]] = {}
    for score in scores:
        by_fingerprint.setdefault(score.get("fingerprint"), []).append(score)
    return list(by_fingerprint.values())


def _hash(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
