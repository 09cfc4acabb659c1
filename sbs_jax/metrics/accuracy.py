"""How an answer is scored, and accuracy with its interval."""

import collections
import dataclasses
import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from sbs_jax.errors import OF_USERS_CODE, UserError, of_users_code
from sbs_jax.metrics import equations

Name = Literal["text", "equation"]
METRICS = get_args(Name)
Score = bool | float
# A name, or a function of the dataset's: (prediction, gold) -> right, wrong or a number in 0..1.
Metric = Name | Callable[[str, str], Score]

_Z95 = 1.959963984540054  # the 97.5% quantile of the normal distribution
_ROUNDING = 1e-6  # a share computed in float32 may come out above 1 by 1.2e-7
_MOST_CHARACTERS = 60  # of a text or value in a message


@dataclasses.dataclass(frozen=True, slots=True)
class Accuracy:
    """The mean score of n answers, kept as sums; the division happens only when it is read.

    Two accuracies add up to that of both samples together: ``Accuracy(3, 4) + Accuracy(1, 6)`` is
    ``Accuracy(4, 10)``.

    Attributes:
        correct: right answers, or the sum of the scores if the metric gives numbers.
        n: answers.
        squares: the sum of the squared scores; None if every score is 0 or 1.
    """

    correct: int | float
    n: int
    squares: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n:
            raise ValueError(f"{self.correct} correct of {self.n} is impossible")

    @classmethod
    def of(cls, scores: Iterable[Score]) -> "Accuracy":
        """The accuracy of answers that were scored one by one (see `score`)."""
        values = list(scores)
        if all(value in (0, 1) for value in values):
            return cls(sum(map(int, values)), len(values))
        return cls(math.fsum(values), len(values), math.fsum(value**2 for value in values))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Accuracy":
        """Reads what `to_json` wrote. Raises KeyError for a missing count."""
        return cls(fields["correct"], fields["n"], fields.get("squares"))

    @property
    def value(self) -> float:
        """The mean score, in 0..1; nan without answers."""
        return self.correct / self.n if self.n else math.nan

    @property
    def counts(self) -> str:
        """``3/4``, or ``mean of 4`` for scores between 0 and 1."""
        return f"{self.correct}/{self.n}" if self.squares is None else f"mean of {self.n}"

    @property
    def ci95(self) -> tuple[float, float]:
        """The 95% Wilson score interval (Wilson 1927); (0, 1) without answers.

        Unlike the normal interval it stays inside 0..1 and keeps a width at 0% and 100%. Scores
        between 0 and 1 vary less than right and wrong do, so they count as more answers:
        n m (1 - m) / s2 of them, where m is the mean and s2 the variance, which one further
        answer of variance m (1 - m) keeps above 0. For right and wrong that number is n itself.
        """
        if not self.n:
            return 0.0, 1.0
        mean, n, z2 = self.value, self._effective_n(), _Z95**2
        centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z95 * math.sqrt(mean * (1 - mean) / n + z2 / (4 * n**2))
        half /= 1 + z2 / n
        # At 0% and 100% rounding would put the mean itself just outside.
        return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))

    def _effective_n(self) -> float:
        spread = self.value * (1 - self.value)
        if self.squares is None or spread <= 0:
            return float(self.n)
        squared_deviations = max(0.0, self.squares - self.n * self.value**2)
        return self.n * spread * (self.n + 1) / (squared_deviations + spread)

    def __add__(self, other: "Accuracy") -> "Accuracy":
        squares = None
        if self.squares is not None or other.squares is not None:
            squares = sum(a.correct if a.squares is None else a.squares for a in (self, other))
        return Accuracy(self.correct + other.correct, self.n + other.n, squares)

    def __str__(self) -> str:
        low, high = self.ci95
        return f"{self.value:.4f} [{low:.4f}, {high:.4f}] ({self.counts})"

    def to_json(self) -> dict[str, Any]:
        """``{"correct", "n", "accuracy", "ci95": [low, high]}``; accuracy is None without answers.

        The accuracy of a metric that gives numbers also has ``"squares"``.
        """
        return {
            "correct": self.correct,
            "n": self.n,
            "accuracy": self.value if self.n else None,
            "ci95": list(self.ci95),
            **({} if self.squares is None else {"squares": self.squares}),
        }


def score(metric: Metric, prediction: str, gold: str, where: str = "") -> Score:
    """Scores an answer: right, wrong, or a number from 0 to 1 that is averaged.

    ``text``: the same string, every space and capital included (the original's metrics.py).
    ``equation``: both have a value and it is the same (see `equations.equal`).
    A function decides itself: it returns a bool or a number from 0 to 1.

    Args:
        metric: a name or a function.
        prediction: the answer.
        gold: the label it is compared with.
        where: the record, for messages.

    Raises:
        UserError: a function that raises an exception or returns anything else, nan included.
        ValueError: a metric of another name.
    """
    if callable(metric):
        return _call(metric, prediction, gold, where)
    if metric == "text":
        return prediction == gold
    if metric == "equation":
        return equations.equal(prediction, gold)
    raise ValueError(f"unknown metric {metric!r}; known: text, equation")


def is_correct(metric: Metric, prediction: str, gold: str, where: str = "") -> bool:
    """Whether `score` gives full credit: True, or the number 1."""
    return score(metric, prediction, gold, where) == 1


def metric_name(metric: str | Callable[..., Any]) -> str:
    """The name of a metric; a function's is its own, or else its type's."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def _call(metric: Callable[[str, str], Any], prediction: str, gold: str, where: str) -> Score:
    place = f"{where}: " if where else ""
    case = f"for the answer {_short(prediction)} to the gold label {_short(gold)}"
    must = "a metric returns a bool or a number from 0 to 1"
    try:
        value = metric(prediction, gold)
    except OF_USERS_CODE as error:
        raise UserError(
            f"{place}metric {metric_name(metric)} raises {of_users_code(error)} {case}; {must} "
            "for every answer"
        ) from error
    if getattr(value, "shape", None) == ():  # a number of numpy or jax
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Real) and value <= 1 + _ROUNDING and not value < 0:
        return min(float(value), 1.0)
    raise UserError(f"{place}metric {metric_name(metric)} returns {_short(value)} {case}; {must}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..."


def accuracy(metric: Metric, predictions: Iterable[str], golds: Iterable[str]) -> Accuracy:
    """Scores pairs; raises ValueError if one side is longer."""
    return Accuracy.of(score(metric, p, g) for p, g in zip(predictions, golds, strict=True))


def majority_baseline(labels_train: Iterable[str], labels_test: Sequence[str]) -> Accuracy:
    """The accuracy of always predicting the most common training label (ties: first seen)."""
    most_common = collections.Counter(labels_train).most_common(1)
    label = most_common[0][0] if most_common else None
    return Accuracy(sum(gold == label for gold in labels_test), len(labels_test))
