"""A study's rows -> means with intervals and paired differences.

A row is one finished run: an arm, a fraction of the labels and a seed. Seeds are the unit of
repetition: a mean's interval is Student's t over seeds, and two arms are compared within each seed.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Accuracy

# Arms of a study, in the order of tables and legends.
ARM_NAMES = {
    "standard": "standard",
    "standard_2x": "standard (2x steps)",
    "distill": "standard (teacher labels)",
    "step_by_step": "step-by-step",
    "step_by_step_llm": "step-by-step (teacher labels)",
    "single_task": "rationale and label in one sequence",
    "pinto": "rationale in the input",
}
TEACHER = "teacher"
_STEP_BY_STEP = ("step_by_step", "step_by_step_llm")


@dataclasses.dataclass(frozen=True)
class Row:
    """One run of a study.

    Attributes:
        fraction: of the labels trained on, above 0 to 1.
        accuracy: on the test questions.
        cpu_seconds: of the run, or None where it was not taken.
        teacher, majority: accuracies on the same questions, or None.
        model_dir: relative to the study's folder, or None.
    """

    arm: str
    fraction: float
    seed: int
    accuracy: Accuracy
    steps: int
    train_examples: int
    cpu_seconds: float | None = None
    teacher: Accuracy | None = None
    majority: Accuracy | None = None
    model_dir: str | None = None


@dataclasses.dataclass(frozen=True)
class Spread:
    """A mean over seeds with its 95% t-interval; low and high are None for a single seed."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclasses.dataclass(frozen=True)
class Cell:
    """An arm at a fraction: its accuracies by seed and their mean; the interval is cut to 0..1."""

    arm: str
    fraction: float
    by_seed: dict[int, float]
    accuracy: Spread
    test_questions: int
    steps: int
    train_examples: int
    cpu_seconds: float | None


@dataclasses.dataclass(frozen=True)
class Difference:
    """`arm` minus `base` (an arm, or `TEACHER`) at a fraction, paired by seed."""

    arm: str
    base: str
    fraction: float
    accuracy: Spread

    @property
    def reading(self) -> str:
        """What may be said of it."""
        low, high = self.accuracy.low, self.accuracy.high
        if low is None or high is None:
            return "one seed: no interval, nothing shown"
        if low > 0:
            return "higher"
        return "lower" if high < 0 else "no difference shown: the interval includes 0"


@dataclasses.dataclass(frozen=True)
class Summary:
    """All that a report says about a study in numbers.

    Attributes:
        labels: training questions at each fraction, fractions rising.
        teacher: over all seeds' test questions, each counted once.
        majority: the untrained guesser at each fraction, over seeds.
    """

    labels: dict[float, int]
    cells: list[Cell]
    differences: list[Difference]
    teacher: Accuracy | None
    majority: dict[float, Spread]

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    def cell(self, arm: str, fraction: float) -> Cell | None:
        """None where the study has no such run."""
        return next((c for c in self.cells if (c.arm, c.fraction) == (arm, fraction)), None)

    def to_json(self) -> dict[str, Any]:
        """Everything the figure and the tables show."""
        return {
            "cells": [dataclasses.asdict(cell) for cell in self.cells],
            "differences": [
                {**dataclasses.asdict(difference), "reading": difference.reading}
                for difference in self.differences
            ],
            "teacher": self.teacher and self.teacher.to_json(),
            "majority": [
                {"fraction": fraction, **dataclasses.asdict(spread)}
                for fraction, spread in self.majority.items()
            ],
        }


def arm_name(arm: str) -> str:
    """How an arm is called in tables and legends."""
    return ARM_NAMES.get(arm, arm)


def labels_name(fraction: float, labels: int) -> str:
    """400 (50%)"""
    return f"{labels} ({100 * fraction:.4g}%)"


def parse_row(fields: Any, where: str) -> Row:
    """One object of study.jsonl; `where` (file:line) opens every error.

    Raises:
        UserError: a field is missing or of the wrong kind.
    """
    if not isinstance(fields, Mapping):
        raise UserError(f"{where}: expected a JSON object, one per run of the study")
    try:
        return Row(
            arm=str(fields["arm"]),
            fraction=float(fields["fraction"]),
            seed=int(fields["seed"]),
            accuracy=Accuracy(fields["correct"], fields["n"]),
            steps=int(fields["steps"]),
            train_examples=int(fields["train_examples"]),
            cpu_seconds=fields.get("cpu_seconds"),
            teacher=parse_accuracy(fields.get("teacher")),
            majority=parse_accuracy(fields.get("majority")),
            model_dir=fields.get("model_dir"),
        )
    except KeyError as error:
        raise UserError(f"{where}: field {error} is missing") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None


def parse_accuracy(fields: Mapping[str, Any] | None) -> Accuracy | None:
    """``{"correct", "n", ...}`` of a results file, or None."""
    return Accuracy(fields["correct"], fields["n"]) if fields else None


def spread(values: Sequence[float]) -> Spread:
    """The mean and its 95% interval by Student's t with n - 1 degrees of freedom."""
    mean, n = statistics.fmean(values), len(values)
    if n < 2:
        return Spread(mean, None, None, n)
    half = _t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Spread(mean, mean - half, mean + half, n)


def summarise(rows: Sequence[Row]) -> Summary:
    """Means per arm and fraction, and step-by-step against every other arm and the teacher.

    Raises:
        UserError: no rows, two rows of one arm, fraction and seed, or a fraction that stands for
            different numbers of questions.
    """
    if not rows:
        raise UserError("the study has no finished run yet; nothing to report")
    grid: dict[tuple[float, str], dict[int, Row]] = {}
    labels: dict[float, int] = {}
    for row in rows:
        of_seed = grid.setdefault((row.fraction, row.arm), {})
        run = f"arm {row.arm}, fraction {row.fraction}, seed {row.seed}"
        if row.seed in of_seed:
            raise UserError(f"the study has two rows for {run}; delete one")
        of_seed[row.seed] = row
        if labels.setdefault(row.fraction, row.train_examples) != row.train_examples:
            raise UserError(
                f"the study's runs at fraction {row.fraction} have {labels[row.fraction]} and "
                f"{row.train_examples} training questions ({run}); report them separately"
            )
    order = [*ARM_NAMES, *dict.fromkeys(row.arm for row in rows if row.arm not in ARM_NAMES)]
    keys = sorted(grid, key=lambda key: (key[0], order.index(key[1])))
    return Summary(
        labels=dict(sorted(labels.items())),
        cells=[_cell(arm, fraction, grid[fraction, arm]) for fraction, arm in keys],
        differences=_differences(grid, keys),
        teacher=_teacher(rows),
        majority=_majority(rows),
    )


def _cell(arm: str, fraction: float, by_seed: Mapping[int, Row]) -> Cell:
    rows = [by_seed[seed] for seed in sorted(by_seed)]
    accuracy = spread([row.accuracy.value for row in rows])
    if accuracy.low is not None and accuracy.high is not None:
        accuracy = dataclasses.replace(
            accuracy, low=max(0.0, accuracy.low), high=min(1.0, accuracy.high)
        )
    seconds = [row.cpu_seconds for row in rows if row.cpu_seconds is not None]
    return Cell(
        arm=arm,
        fraction=fraction,
        by_seed={row.seed: row.accuracy.value for row in rows},
        accuracy=accuracy,
        test_questions=rows[0].accuracy.n,
        steps=rows[0].steps,
        train_examples=rows[0].train_examples,
        cpu_seconds=statistics.fmean(seconds) if seconds else None,
    )


def _differences(
    grid: Mapping[tuple[float, str], Mapping[int, Row]], keys: Iterable[tuple[float, str]]
) -> list[Difference]:
    found = []
    keys = list(keys)
    for fraction, arm in keys:
        if arm not in _STEP_BY_STEP:
            continue
        rows = grid[fraction, arm]
        others = [a for f, a in keys if f == fraction and a not in _STEP_BY_STEP]
        for base in others:
            pairs = [
                row.accuracy.value - grid[fraction, base][seed].accuracy.value
                for seed, row in sorted(rows.items())
                if seed in grid[fraction, base]
            ]
            if pairs:
                found.append(Difference(arm, base, fraction, spread(pairs)))
        to_teacher = [r.accuracy.value - r.teacher.value for r in rows.values() if r.teacher]
        if to_teacher:
            found.append(Difference(arm, TEACHER, fraction, spread(to_teacher)))
    return found


def _teacher(rows: Iterable[Row]) -> Accuracy | None:
    by_seed = {row.seed: row.teacher for row in rows if row.teacher}
    # Seeds that share a test set share the teacher's count as well, and must not be added up.
    distinct = set(by_seed.values())
    parts = by_seed.values() if len(distinct) > 1 else distinct
    return sum(parts, start=Accuracy(0, 0)) if parts else None


def _majority(rows: Iterable[Row]) -> dict[float, Spread]:
    by_fraction: dict[float, dict[int, float]] = {}
    for row in rows:
        if row.majority:
            by_fraction.setdefault(row.fraction, {})[row.seed] = row.majority.value
    return {
        fraction: spread(list(by_fraction[fraction].values())) for fraction in sorted(by_fraction)
    }


def _t_quantile(degrees: int) -> float:
    try:
        from scipy import stats  # seconds to import; only a report needs it
    except ImportError:
        raise UserError("scipy is missing; pip install 'sbs_jax[report]'") from None
    return float(stats.t.ppf(0.975, degrees))
