"""Accuracy as counts with an interval, the two ways an answer can be right, and a paired test."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, get_args

from sbs_jax.metrics import equations

Name = Literal["text", "equation"]
METRICS = get_args(Name)
# A name, or a dataset's own rule: (prediction, gold) -> right or wrong.
Metric = Name | Callable[[str, str], bool]

_Z95 = 1.959963984540054  # the 97.5% quantile of the normal distribution


@dataclasses.dataclass(frozen=True, slots=True)
class Accuracy:
    """So many of n right; the division happens only when it is read.

    Two accuracies add up to that of both samples together: ``Accuracy(3, 4) + Accuracy(1, 6)`` is
    ``Accuracy(4, 10)``.
    """

    correct: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n:
            raise ValueError(f"{self.correct} correct of {self.n} is impossible")

    @property
    def value(self) -> float:
        """The share of right answers, in 0..1; nan of no answers."""
        return self.correct / self.n if self.n else math.nan

    @property
    def ci95(self) -> tuple[float, float]:
        """The 95% Wilson score interval (Wilson 1927); (0, 1) of no answers.

        Unlike the normal interval it stays inside 0..1 and keeps a width at 0% and 100%.
        """
        if not self.n:
            return 0.0, 1.0
        share, z2 = self.value, _Z95**2
        centre = (share + z2 / (2 * self.n)) / (1 + z2 / self.n)
        half = _Z95 * math.sqrt(share * (1 - share) / self.n + z2 / (4 * self.n**2))
        half /= 1 + z2 / self.n
        # At 0% and 100% rounding would put the share itself just outside.
        return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))

    def __add__(self, other: "Accuracy") -> "Accuracy":
        return Accuracy(self.correct + other.correct, self.n + other.n)

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.value:.4f} [{low:.4f}, {high:.4f}] ({self.correct}/{self.n})"

    def to_json(self) -> dict[str, Any]:
        """``{"correct", "n", "accuracy", "ci95": [low, high]}``; accuracy is None of no answers."""
        return {
            "correct": self.correct,
            "n": self.n,
            "accuracy": self.value if self.n else None,
            "ci95": list(self.ci95),
        }


def is_correct(metric: Metric, prediction: str, gold: str) -> bool:
    """Whether an answer is right.

    ``text``: the same string, every space and capital included (the original's metrics.py).
    ``equation``: both have a value and it is the same (see `equations.equal`).
    A function decides itself. Raises ValueError for another metric.
    """
    if callable(metric):
        return bool(metric(prediction, gold))
    if metric == "text":
        return prediction == gold
    if metric == "equation":
        return equations.equal(prediction, gold)
    raise ValueError(f"unknown metric {metric!r}; known: text, equation")


def accuracy(metric: Metric, predictions: Iterable[str], golds: Iterable[str]) -> Accuracy:
    """Scores pairs; raises ValueError where one side is longer."""
    right = [is_correct(metric, p, g) for p, g in zip(predictions, golds, strict=True)]
    return Accuracy(sum(right), len(right))


def majority_baseline(labels_train: Iterable[str], labels_test: Sequence[str]) -> Accuracy:
    """What always answering the commonest training label scores (of equals, the one met first)."""
    commonest = collections.Counter(labels_train).most_common(1)
    label = commonest[0][0] if commonest else None
    return Accuracy(sum(gold == label for gold in labels_test), len(labels_test))


def mcnemar(correct_a: Iterable[bool], correct_b: Iterable[bool]) -> float:
    """The exact two-sided McNemar test: p of such a difference between two models by chance.

    Args:
        correct_a: for every question, whether model A was right.
        correct_b: the same questions in the same order for model B.

    Only questions that one model alone got right count; under chance they fall to either model
    like a fair coin (McNemar 1947). Returns p in 0..1, 1 where there is no such question. Raises
    ValueError where the lengths differ.
    """
    pairs = list(zip(correct_a, correct_b, strict=True))
    only_a = sum(bool(a) and not b for a, b in pairs)
    only_b = sum(bool(b) and not a for a, b in pairs)
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail, binomial = 0, 1
    for k in range(fewer + 1):  # whole numbers until the division: exact for any n
        tail += binomial
        binomial = binomial * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n)
