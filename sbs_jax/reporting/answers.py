"""A run's answers to the test questions, as arrays that can be compared with another run's."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sbs_jax.datasets.annotations import Outputs
from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Metric
from sbs_jax.runs import layout, reader
from sbs_jax.runs.reader import Run
from sbs_jax.utils import jsonl
from sbs_jax.utils.console import say

_Question = tuple[str, str, str]  # id, input, gold


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a predictions file holds.

    Attributes:
        rows: the objects of the file, in its order.
        questions: (id, input, gold), sorted: the order of the arrays.
        student: score of every answer, 0 to 1.
        teacher: score of the teacher's label; nan where the teacher has none.
    """

    rows: Sequence[dict[str, Any]]
    questions: tuple[_Question, ...]
    student: Float[np.ndarray, " questions"]
    teacher: Float[np.ndarray, " questions"]

    @property
    def with_teacher(self) -> np.ndarray:
        """Whether the teacher answered a question, unreadable answers included."""
        return ~np.isnan(self.teacher)

    @property
    def fingerprint(self) -> str:
        """Changes when any id, question or gold label does."""
        return hashlib.sha256(json.dumps(self.questions).encode()).hexdigest()[:16]


def read(run: Run, split: str = "test") -> Answers | None:
    """The answers of a run to a split; None where it has no predictions file.

    Raises:
        UserError: the file cannot be read, or is not the one that results.json counted.
    """
    files = layout.find_predictions(run.folder, split, run.results["step"]) if run.results else []
    if not files:
        return None
    counted = _counted(run, split)
    rows = run.predictions(split)
    n, right = len(rows), math.fsum(row["correct"] for row in rows)
    if counted and (n != counted["n"] or not _same(right, counted["correct"])):
        raise UserError(
            f"{files[0]}: {right:g} of {n} answers are right, {layout.RESULTS} says "
            f"{counted['correct']:g} of {counted['n']}; run sbs evaluate --split={split} again"
        )
    return _sorted(rows, _teacher(rows, counted.get("teacher"))) if rows else None


def read_file(path: Path, split: str, metric: Metric, teacher: Outputs) -> Answers:
    """The answers of any predictions file, or of an output of `sbs predict` that has gold labels.

    Args:
        path: of the file.
        split: that the questions are of, where `teacher` distinguishes splits.
        metric: that judges the labels where the file does not.
        teacher: its labels, for rows that have none.

    Raises:
        UserError: file, line and field of what is missing or cannot be understood.

    Answers whose question came without a gold label are left out and counted on stderr.
    """
    rows, unjudged = [], 0
    for where, row in jsonl.objects(path):
        if missing := [name for name in ("id", "input", "gold", "label") if name not in row]:
            raise UserError(
                f"{where}: field {missing[0]!r} is missing; give the predictions file of a run, or "
                "what sbs predict made of questions with their gold label (field label)"
            )
        _check_scores(row, where)
        if row["gold"] is None or not str(row["gold"]).strip():
            unjudged += 1
            continue
        of_id = str(row["id"])
        output = teacher.get((split, of_id)) or teacher.get((None, of_id))
        if row.get("teacher_label") is None and output is not None:
            row |= {"teacher_label": output.label, "teacher_correct": None}
        rows.append(row)
    if unjudged:
        say(f"{path}: {unjudged} answers have an empty gold label; they are left out")
    if not rows:
        raise UserError(f"{path}: holds no answers with a gold label")
    reader.judge(rows, metric)
    return _sorted(rows, _scores_of_teacher(rows))


def _check_scores(row: dict[str, Any], where: str) -> None:
    for name in ("correct", "teacher_correct"):
        value = row.get(name)
        if not isinstance(value, bool | int | float | None) or not 0 <= (value or 0) <= 1:
            raise UserError(
                f"{where}: field {name!r} is {value!r}; give true, false or a number from 0 to 1"
            )


def _sorted(rows: Sequence[dict[str, Any]], teacher: Sequence[float]) -> Answers:
    questions = [(str(row["id"]), row["input"], row["gold"]) for row in rows]
    order = sorted(range(len(rows)), key=questions.__getitem__)
    return Answers(
        rows=rows,
        questions=tuple(questions[i] for i in order),
        student=np.array([float(row["correct"]) for row in rows])[order],
        teacher=np.array(teacher)[order],
    )


def _scores_of_teacher(rows: Sequence[dict[str, Any]]) -> list[float]:
    """nan where it has no label."""
    return [
        math.nan if row.get("teacher_label") is None else float(row["teacher_correct"])
        for row in rows
    ]


def _counted(run: Run, split: str) -> dict[str, Any]:
    """What results.json says of a split; empty where it says nothing."""
    results = (run.results or {}).get("results", ())
    return next((result for result in results if result["split"] == split), {})


def _teacher(rows: Sequence[dict[str, Any]], known: dict[str, Any] | None) -> list[float]:
    """The teacher's scores, nan where it has no label.

    All are nan if their sum is not what results.json has (`known`): the run's metric is then a
    function of the user's, which is not at hand here.
    """
    scores = _scores_of_teacher(rows)
    total = math.fsum(score for score in scores if not math.isnan(score))
    return [math.nan] * len(rows) if known and not _same(known["correct"], total) else scores


def _same(one: int | float, other: int | float) -> bool:
    return math.isclose(one, other, abs_tol=1e-6)


def check_same(answers: Sequence[tuple[str, Answers]]) -> None:
    """Raises UserError, naming the first difference, unless all runs answered the same questions.

    Args:
        answers: (name of the run, its answers).
    """
    first_name, first = answers[0]
    for name, other in answers[1:]:
        if other.questions != first.questions:
            raise UserError(
                f"{first_name} and {name} answered different test questions: "
                f"{_difference(first.questions, other.questions)}; report them separately, or "
                "evaluate both on the same data"
            )


def _difference(one: Sequence[_Question], other: Sequence[_Question]) -> str:
    if len(one) != len(other):
        return f"{len(one)} and {len(other)} questions"
    only = next(iter(sorted(set(one) - set(other))))
    twin = next((question for question in other if question[0] == only[0]), None)
    if twin is None:
        return f"id {only[0]!r} is in the first alone"
    field = "input" if twin[1] != only[1] else "gold label"
    place = 1 if field == "input" else 2
    return f"the {field} of id {only[0]!r} is {only[place][:60]!r} and {twin[place][:60]!r}"


def against_teacher(
    answers: Sequence[Answers], shared: bool = False
) -> tuple[list[Float[np.ndarray, " _"]], list[Float[np.ndarray, " _"]]]:
    """(student scores, teacher scores) per run, on the questions that the teacher answered.

    Args:
        shared: the runs have the same questions; those are kept that the teacher answered in all.
    """
    masks = [a.with_teacher for a in answers]
    if shared:
        masks = [np.logical_and.reduce(masks)] * len(masks)
    kept = [(a.student[m], a.teacher[m]) for a, m in zip(answers, masks, strict=True)]
    return [student for student, _ in kept], [teacher for _, teacher in kept]
