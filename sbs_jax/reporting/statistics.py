"""A study's rows and answers -> means with intervals, and differences on the same questions.

A row is one finished run: an arm, a fraction of the labels and a seed. `significance` says how sure
a mean is; this module decides what is averaged and what is compared with what.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.reporting import answers as answers_module
from sbs_jax.reporting import significance
from sbs_jax.reporting.answers import Answers
from sbs_jax.reporting.rows import ARM_NAMES, STEP_BY_STEP, TEACHER, Row
from sbs_jax.reporting.significance import Estimate, PairTable


@dataclasses.dataclass(frozen=True)
class Cell:
    """An arm at a fraction: its accuracies by seed and their mean."""

    arm: str
    fraction: float
    by_seed: dict[int, float]
    accuracy: Estimate
    test_questions: int
    steps: int
    train_examples: int
    cpu_seconds: float | None


@dataclasses.dataclass(frozen=True)
class Difference:
    """`arm` minus `base` (an arm, or `TEACHER`) at a fraction, on the same questions.

    Attributes:
        arm_accuracy, base_accuracy: means on the questions of the comparison.
        holm: p, corrected for all comparisons with the teacher, or for all between arms; None
            without a p.
    """

    arm: str
    base: str
    fraction: float
    accuracy: Estimate
    arm_accuracy: float
    base_accuracy: float
    holm: float | None = None

    @property
    def reading(self) -> str:
        """The verdict on it."""
        return self.accuracy.reading

    @property
    def wins(self) -> bool:
        """Whether the arm is shown to be better, all comparisons of its kind considered."""
        return self.reading == "higher" and self.holm is not None and self.holm < significance.LEVEL

    def to_json(self) -> dict[str, Any]:
        """The numbers and the reading."""
        names = ("arm", "base", "fraction", "arm_accuracy", "base_accuracy", "holm", "reading")
        return {name: getattr(self, name) for name in names} | {"accuracy": self.accuracy.to_json()}


@dataclasses.dataclass(frozen=True)
class Pair:
    """One run and the teacher on the same questions."""

    row: Row
    table: PairTable


@dataclasses.dataclass(frozen=True)
class Summary:
    """All numbers of a report on one dataset of a study.

    Attributes:
        labels: training questions at each fraction, fractions rising.
        shared: whether all seeds answered the same questions; None if unknown.
        teacher: over all different test questions that it has a label for, each counted once.
        majority: the untrained guesser at each fraction, over seeds.
    """

    labels: dict[float, int]
    shared: bool | None
    cells: list[Cell]
    differences: list[Difference]
    pairs: list[Pair]
    teacher: Accuracy | None
    majority: dict[float, Estimate]

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    def cell(self, arm: str, fraction: float) -> Cell | None:
        """None where the study has no such run."""
        return next((c for c in self.cells if (c.arm, c.fraction) == (arm, fraction)), None)

    def against(self, teacher: bool) -> list[Difference]:
        """The differences to the teacher, or those between arms."""
        return [d for d in self.differences if (d.base == TEACHER) == teacher]

    def least_data(self) -> dict[str, float | None]:
        """Arm -> the smallest fraction with which it is shown to beat the teacher, None for none.

        Every comparison made is corrected for. Empty where no difference can be read.
        """
        against = self.against(teacher=True)
        if not any(d.accuracy.readable for d in against):
            return {}
        return {
            arm: min((d.fraction for d in against if d.arm == arm and d.wins), default=None)
            for arm in dict.fromkeys(d.arm for d in against)
        }

    def to_json(self) -> dict[str, Any]:
        """Everything the figure and the tables show."""
        return {
            "shared_questions": self.shared,
            "cells": [vars(cell) | {"accuracy": cell.accuracy.to_json()} for cell in self.cells],
            "differences": [difference.to_json() for difference in self.differences],
            "pairs": [
                {"arm": pair.row.arm, "fraction": pair.row.fraction, "seed": pair.row.seed}
                | dataclasses.asdict(pair.table)
                for pair in self.pairs
            ],
            "teacher": self.teacher and self.teacher.to_json(),
            "majority": [
                {"fraction": fraction, **guess.to_json()}
                for fraction, guess in self.majority.items()
            ],
        }


# (fraction, arm) -> seed -> row
_Grid = Mapping[tuple[float, str], Mapping[int, Row]]


def summarise(rows: Sequence[Row], answers: Mapping[Row, Answers] | None = None) -> Summary:
    """Means per arm and fraction, and differences between arms and to the teacher.

    Args:
        rows: finished runs of one dataset, or of one dataset per seed.
        answers: of each run; without those of all runs no difference can be read.

    Raises:
        UserError: no rows, two rows of one arm, fraction and seed, a fraction that means
            different numbers of questions, or runs that answered different questions.
    """
    if not rows:
        raise UserError("the study has no finished run yet; nothing to report")
    grid, labels = _grid(rows)
    compared = _Compared(rows, dict(answers or {}))
    order = [*ARM_NAMES, *dict.fromkeys(row.arm for row in rows)]
    keys = sorted(grid, key=lambda key: (key[0], order.index(key[1].split("@")[0]), key[1]))
    return Summary(
        labels=dict(sorted(labels.items())),
        shared=compared.shared,
        cells=[_cell(arm, fraction, grid[fraction, arm], compared) for fraction, arm in keys],
        differences=_differences(grid, keys, compared),
        pairs=[pair for key in keys for pair in _pairs(grid[key], compared)],
        teacher=_teacher(rows, compared.own_questions),
        majority=_majority(rows),
    )


def _grid(rows: Sequence[Row]) -> tuple[dict[tuple[float, str], dict[int, Row]], dict[float, int]]:
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
    return grid, labels


class _Compared:
    """The answers of a study's runs, which seed by seed, or all together, are to one test.

    Attributes:
        own_questions: whether each seed has a different dataset, as in the demonstration.
        shared: whether all seeds answered the same questions; None without all answers.
    """

    def __init__(self, rows: Sequence[Row], answers: Mapping[Row, Answers]) -> None:
        self._answers = answers
        self.own_questions = _own_questions(rows)
        self._check_counts(rows)
        self.shared: bool | None = None
        if len(answers) < len(rows):
            return
        self.shared = not self.own_questions
        groups: dict[int | None, list[tuple[str, Answers]]] = {}
        for row in rows:
            name = f"{row.arm} at fraction {row.fraction:g}, seed {row.seed}"
            groups.setdefault(None if self.shared else row.seed, []).append((name, answers[row]))
        for group in groups.values():
            answers_module.check_same(group)

    def _check_counts(self, rows: Sequence[Row]) -> None:
        by_seed: dict[int | None, Row] = {}
        for row in rows:
            first = by_seed.setdefault(row.seed if self.own_questions else None, row)
            if row.accuracy.n != first.accuracy.n:
                raise UserError(
                    f"the study's runs have {first.accuracy.n} test questions ({first.arm}, seed "
                    f"{first.seed}) and {row.accuracy.n} ({row.arm}, seed {row.seed}); their "
                    "data differ, report them separately"
                )

    def of(self, rows: Iterable[Row]) -> list[Answers] | None:
        """The answers of runs; None where one is missing."""
        known = [self._answers[row] for row in rows if row in self._answers]
        return known if self.shared is not None else None

    def estimate(self, scores: Sequence[np.ndarray]) -> Estimate:
        """The mean over seeds of scores, one array per seed."""
        return (
            significance.crossed(np.stack(scores)) if self.shared else significance.nested(scores)
        )


def _own_questions(rows: Sequence[Row]) -> bool:
    """Whether each seed has a different dataset according to the rows."""
    pairs = {(row.seed, row.dataset) for row in rows if row.dataset}
    seeds, datasets = ({pair[i] for pair in pairs} for i in (0, 1))
    return len(datasets) > 1 and len(pairs) == len(seeds) == len(datasets)


def _cell(arm: str, fraction: float, by_seed: Mapping[int, Row], compared: _Compared) -> Cell:
    rows = [by_seed[seed] for seed in sorted(by_seed)]
    seconds = [row.cpu_seconds for row in rows if row.cpu_seconds is not None]
    return Cell(
        arm=arm,
        fraction=fraction,
        by_seed={row.seed: row.accuracy.value for row in rows},
        accuracy=_accuracy(rows, compared),
        test_questions=rows[0].accuracy.n,
        steps=rows[0].steps,
        train_examples=rows[0].train_examples,
        cpu_seconds=statistics.fmean(seconds) if seconds else None,
    )


def _accuracy(rows: Sequence[Row], compared: _Compared) -> Estimate:
    identities = {row.fingerprint for row in rows if row.fingerprint}
    if len(identities) > 1 and not compared.own_questions:
        raise UserError(
            f"the seeds of {rows[0].arm} at fraction {rows[0].fraction:g} were scored on different "
            "questions, or with different metrics or decoding lengths (their fingerprints differ); "
            "score them alike (sbs evaluate), or report them separately"
        )
    if len(rows) == 1:
        accuracy = rows[0].accuracy
        return Estimate(accuracy.value, *accuracy.ci95, None, 1, accuracy.n, 0)
    answers = compared.of(rows)
    if answers is None:
        means = np.array([row.accuracy.value for row in rows])
        return significance.over_seeds(means, rows[0].accuracy.n).clipped(0.0)
    return compared.estimate([answer.student for answer in answers]).clipped(0.0)


def _differences(
    grid: _Grid, keys: Sequence[tuple[float, str]], compared: _Compared
) -> list[Difference]:
    between, to_teacher = [], []
    for fraction, arm in keys:
        rows = grid[fraction, arm]
        if arm.split("@")[0] in STEP_BY_STEP:
            for other_fraction, base in keys:
                if other_fraction == fraction and _comparable(arm, base):
                    between.append(_between(fraction, arm, base, rows, grid, compared))
        to_teacher.append(_to_teacher(fraction, arm, rows, compared))
    return [
        *_corrected([d for d in between if d]),
        *_corrected([d for d in to_teacher if d]),
    ]


def _comparable(arm: str, base: str) -> bool:
    """Of step-by-step, another method with the same size and alpha, or without any."""
    (method, *variant), (other, *others) = arm.split("@"), base.split("@")
    del method
    return other not in STEP_BY_STEP and (variant == others or not others or not variant)


def _corrected(differences: list[Difference]) -> list[Difference]:
    with_p = [d for d in differences if d.accuracy.p is not None]
    corrected = iter(significance.holm([d.accuracy.p or 0.0 for d in with_p]))
    return [
        dataclasses.replace(d, holm=next(corrected) if d.accuracy.p is not None else None)
        for d in differences
    ]


def _between(
    fraction: float,
    arm: str,
    base: str,
    rows: Mapping[int, Row],
    grid: _Grid,
    compared: _Compared,
) -> Difference | None:
    others = grid[fraction, base]
    seeds = sorted(rows.keys() & others.keys())
    if not seeds:
        return None
    one, other = [rows[s] for s in seeds], [others[s] for s in seeds]
    ours, theirs = compared.of(one), compared.of(other)
    if ours is None or theirs is None:
        gaps = [a.accuracy.value - b.accuracy.value for a, b in zip(one, other, strict=True)]
        estimate = significance.over_seeds(np.array(gaps), one[0].accuracy.n)
    else:
        pairs = zip(ours, theirs, strict=True)
        estimate = compared.estimate([a.student - b.student for a, b in pairs])
    means = (statistics.fmean(row.accuracy.value for row in of) for of in (one, other))
    return Difference(arm, base, fraction, estimate.clipped(-1.0), *means)


def _to_teacher(
    fraction: float, arm: str, by_seed: Mapping[int, Row], compared: _Compared
) -> Difference | None:
    rows = [by_seed[seed] for seed in sorted(by_seed)]
    answers = compared.of(rows)
    if answers is None:
        rows = [row for row in rows if row.teacher]
        if not rows:
            return None
        ours = [row.accuracy.value for row in rows]
        theirs = [row.teacher.value for row in rows if row.teacher]
        estimate = significance.over_seeds(np.array(ours) - np.array(theirs), rows[0].accuracy.n)
        estimate = estimate.clipped(-1.0)
        return Difference(arm, TEACHER, fraction, estimate, *map(statistics.fmean, (ours, theirs)))
    students, teachers = answers_module.against_teacher(answers, compared.shared is True)
    if not all(len(scores) for scores in students):
        return None
    estimate = compared.estimate([s - t for s, t in zip(students, teachers, strict=True)])
    means = (float(np.mean([scores.mean() for scores in of])) for of in (students, teachers))
    return Difference(arm, TEACHER, fraction, estimate.clipped(-1.0), *means)


def _pairs(by_seed: Mapping[int, Row], compared: _Compared) -> list[Pair]:
    """The 2x2 tables of runs whose answers, and the teacher's, are right or wrong."""
    rows = [by_seed[seed] for seed in sorted(by_seed)]
    students, teachers = answers_module.against_teacher(compared.of(rows) or [])
    return [
        Pair(row, significance.pair_table(student, teacher))
        for row, student, teacher in zip(rows, students, teachers, strict=False)
        if len(student) and np.isin([*student, *teacher], (0, 1)).all()
    ]


def _teacher(rows: Iterable[Row], own_questions: bool) -> Accuracy | None:
    """Of seeds that share a test set, the count with the most labels."""
    by_seed = {row.seed: row.teacher for row in rows if row.teacher}
    if own_questions and by_seed:
        return sum(by_seed.values(), start=Accuracy(0, 0))
    return max(by_seed.values(), key=lambda count: count.n, default=None)


def _majority(rows: Iterable[Row]) -> dict[float, Estimate]:
    by_fraction: dict[float, dict[int, Accuracy]] = {}
    for row in rows:
        if row.majority:
            by_fraction.setdefault(row.fraction, {})[row.seed] = row.majority
    return {
        fraction: significance.over_seeds(
            np.array([guess.value for guess in guesses.values()]), next(iter(guesses.values())).n
        )
        for fraction, guesses in sorted(by_fraction.items())
    }
