"""Tests differences between two answerers: seeds and test questions both are samples.

A study asks whether a *method* beats the teacher, or another method, on *such questions*; so both
the seeds and the questions are drawn from a larger population. Where all seeds answer the same
questions, the design is crossed; where each seed has different questions, it is nested. The error
rate of every reading, under equal true accuracies, is simulated in
``tests/reporting/test_significance.py`` and lies between 3% and 7%.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sbs_jax.errors import UserError

LEVEL = 0.05  # two-sided, of one comparison
POWER = 0.8  # of the minimum detectable difference
# Below these a reading's simulated error rate leaves 3-7%, so none is printed.
FEWEST_SEEDS = 3
FEWEST_CONTESTED = 20

_RESAMPLES = 2000
_NO_SPREAD = 1e-12  # what rounding leaves of equal means


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval over seeds and test questions.

    Attributes:
        mean: of the scores or of their differences.
        low, high: the interval's ends; None where one value alone has no spread, or all are equal.
        error: the standard error of the mean; 0 where all are equal.
        seeds: trained students that enter.
        questions: test questions of one seed (the fewest, where seeds have their own).
        contested: questions on which the two differ for any seed, over all seeds.
        critical: level -> the |t| that chance exceeds at this level.
    """

    mean: float
    low: float | None
    high: float | None
    error: float | None
    seeds: int
    questions: int
    contested: int
    critical: Callable[[float], float] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    @functools.cached_property
    def p(self) -> float | None:
        """Two-sided, of a mean this far from 0 by chance; None without an interval."""
        if self.critical is None or self.error is None:
            return None
        return _level_of(abs(self.mean) / self.error, self.critical)

    def to_json(self) -> dict[str, Any]:
        """The numbers alone."""
        names = ("mean", "low", "high", "p", "seeds", "questions", "contested", "detectable")
        return {name: getattr(self, name) for name in names}

    @property
    def detectable(self) -> float | None:
        """The smallest true difference found with a power of 80% at this spread and n."""
        if self.error is None or self.critical is None:
            return None
        return (self.critical(LEVEL) + _normal_quantile(POWER)) * self.error

    @property
    def readable(self) -> bool:
        """Whether a reading's error rate is known to be within 3-7%."""
        enough = self.seeds >= FEWEST_SEEDS and self.contested >= FEWEST_CONTESTED
        return enough and self.critical is not None

    @property
    def reading(self) -> str:
        """What may be said of a difference."""
        if self.error is None:
            return "no reading: no interval"
        if self.seeds < FEWEST_SEEDS:
            few = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
            return f"no reading: {few}, at least {FEWEST_SEEDS} are needed"
        if self.contested < FEWEST_CONTESTED:
            return (
                f"no reading: they differ on {self.contested} questions, at least "
                f"{FEWEST_CONTESTED} are needed"
            )
        if self.low is None or self.high is None:
            return "no reading: all seeds differ by the same, which tells nothing of chance"
        if self.low > 0:
            return "higher"
        return "lower" if self.high < 0 else "no difference shown: the interval includes 0"

    def clipped(self, lowest: float) -> "Estimate":
        """The interval, cut to what can be: from 0 of an accuracy, -1 of a difference, to 1."""
        if self.low is None or self.high is None:
            return self
        return dataclasses.replace(self, low=max(lowest, self.low), high=min(1.0, self.high))


def crossed(scores: Float[np.ndarray, "seeds questions"]) -> Estimate:
    """The mean of scores whose seeds all answer the same questions.

    The variance is that of a two-way random-effects layout, as in multi-reader studies (Obuchowski
    and Rockette 1995): ``(MS_seed + max(MS_question - MS_rest, 0)) / (seeds * questions)``. With
    few seeds Hillis's (2007) degrees of freedom are liberal in some cases and the weighted quantile
    of Cochran and Cox (1957) is conservative in most; the critical value is two parts of the former
    to one of the latter, which keeps the simulated error rates within 3.5-6.5%. One seed
    leaves the spread over questions alone, Student's t.
    """
    seeds, questions = scores.shape
    if seeds == 1:
        return _over_questions(scores[0])
    mean = float(scores.mean())
    by_seed, by_question = scores.mean(1), scores.mean(0)
    rest = scores - by_seed[:, None] - by_question[None, :] + mean
    of_seed = questions * float(by_seed.var(ddof=1))
    of_question = seeds * float(by_question.var(ddof=1)) if questions > 1 else 0.0
    of_rest = float((rest**2).sum()) / ((seeds - 1) * max(questions - 1, 1))
    shared = max(of_question - of_rest, 0.0)
    error = math.sqrt((of_seed + shared) / (seeds * questions))
    share = shared / (of_seed + shared) if error else 0.0

    def critical(level: float) -> float:
        seed_quantile = _t_quantile(level, seeds - 1)
        cochran = (1 - share) * seed_quantile + share * _t_quantile(level, questions - 1)
        if share == 1.0:
            return cochran
        hillis = _t_quantile(level, (seeds - 1) / (1 - share) ** 2)
        return (2 * hillis + cochran) / 3

    contested = int(np.any(scores != 0, axis=0).sum())
    return _estimate(mean, error, critical, seeds, questions, contested)


def nested(scores: Sequence[Float[np.ndarray, " _"]]) -> Estimate:
    """The mean of scores whose seeds answer different questions: Student's t over seeds.

    The mean of a seed varies with its questions too, so the spread over seeds holds both.
    """
    if len(scores) == 1:
        return _over_questions(scores[0])
    means = np.array([seed.mean() for seed in scores])
    contested = sum(int((seed != 0).sum()) for seed in scores)
    questions = min(len(seed) for seed in scores)
    return over_seeds(means, questions, contested)


def over_seeds(means: Float[np.ndarray, " seeds"], questions: int, contested: int = 0) -> Estimate:
    """Student's t over the means of seeds; where single answers are unknown there is no reading."""
    mean, seeds = float(means.mean()), len(means)
    if seeds < 2:
        return Estimate(mean, None, None, None, seeds, questions, contested)
    error = float(means.std(ddof=1)) / math.sqrt(seeds)
    return _estimate(
        mean, error, lambda level: _t_quantile(level, seeds - 1), seeds, questions, contested
    )


def _over_questions(scores: Float[np.ndarray, " questions"]) -> Estimate:
    """One student: the interval is over questions and says nothing about other seeds."""
    n = len(scores)
    mean, contested = float(scores.mean()), int((scores != 0).sum())
    if n < 2:
        return Estimate(mean, None, None, None, 1, n, contested)
    error = float(scores.std(ddof=1)) / math.sqrt(n)
    return _estimate(mean, error, lambda level: _t_quantile(level, n - 1), 1, n, contested)


def _estimate(
    mean: float,
    error: float,
    critical: Callable[[float], float],
    seeds: int,
    questions: int,
    contested: int,
) -> Estimate:
    if error < _NO_SPREAD:  # with few seeds an accident of counts, not a certain mean
        return Estimate(mean, None, None, 0.0, seeds, questions, contested)
    half = critical(LEVEL) * error
    ends = mean - half, mean + half
    return Estimate(mean, *ends, error, seeds, questions, contested, critical)


def _level_of(t: float, critical: Callable[[float], float]) -> float:
    """The level whose critical value is t, by bisection of its logarithm."""
    low, high = math.log(1e-16), 0.0  # critical(1) = 0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if critical(math.exp(middle)) > t else (low, middle)
    return math.exp(high)


@dataclasses.dataclass(frozen=True)
class PairTable:
    """A student and the teacher on the same questions: how often each alone is right.

    Attributes:
        p: of the exact two-sided McNemar test (McNemar 1947): under chance the questions that one
            alone got right fall to either like a fair coin.
        low, high: the 95% interval of the accuracy difference by a paired bootstrap over questions.
    """

    both: int
    student_only: int
    teacher_only: int
    neither: int
    p: float
    low: float
    high: float

    @property
    def n(self) -> int:
        return self.both + self.student_only + self.teacher_only + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the student minus that of the teacher."""
        return (self.student_only - self.teacher_only) / self.n


def pair_table(
    student: Float[np.ndarray, " questions"], teacher: Float[np.ndarray, " questions"]
) -> PairTable:
    """Counts and tests of one student against the teacher, both scored 0 or 1."""
    right, teacher_right = student == 1, teacher == 1
    only = int((right & ~teacher_right).sum())
    teacher_only = int((~right & teacher_right).sum())
    low, high = bootstrap(student - teacher)
    return PairTable(
        both=int((right & teacher_right).sum()),
        student_only=only,
        teacher_only=teacher_only,
        neither=int((~right & ~teacher_right).sum()),
        p=mcnemar(only, teacher_only),
        low=low,
        high=high,
    )


def mcnemar(only_a: int, only_b: int) -> float:
    """p of the exact two-sided McNemar test; counts are of questions that one alone got right."""
    if not only_a + only_b:
        return 1.0
    return float(_scipy()[0].binomtest(only_a, only_a + only_b, 0.5).pvalue)


def bootstrap(differences: Float[np.ndarray, " questions"]) -> tuple[float, float]:
    """The 95% percentile interval of a mean over questions drawn again and again."""
    if len(differences) < 2 or not differences.any():
        return float(differences.mean()), float(differences.mean())
    result = _scipy()[0].bootstrap(
        (differences,),
        np.mean,
        n_resamples=_RESAMPLES,
        batch=max(1, 1_000_000 // len(differences)),
        method="percentile",
        rng=np.random.default_rng(0),  # the same report twice has the same digits
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) correction: p-values that hold for all comparisons at once, in the same order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _t_quantile(level: float, degrees: int | float) -> float:
    """The |t| that is exceeded with probability `level`."""
    return float(-_scipy()[1].stdtrit(degrees, level / 2))


def _normal_quantile(probability: float) -> float:
    return float(_scipy()[1].ndtri(probability))


@functools.cache
def _scipy() -> tuple[Any, Any]:
    """scipy's stats and special, imported when they are needed: they take up to a second."""
    try:
        from scipy import special, stats
    except ImportError:
        raise UserError("scipy is missing; pip install 'sbs_jax[report]'") from None
    return stats, special
