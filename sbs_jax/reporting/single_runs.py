"""Tables of runs outside of a study: each student against its teacher."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from sbs_jax.reporting import significance
from sbs_jax.reporting.answers import Answers
from sbs_jax.reporting.rows import parse_accuracy
from sbs_jax.reporting.significance import PairTable
from sbs_jax.reporting.tables import PAIR_HEADS, Table, pair_fields
from sbs_jax.runs.reader import Run

REMARKS = (
    "An interval says how well this number of questions pins the accuracy down; it does not say "
    "what another seed would give. Compare methods over seeds (sbs study).",
    "McNemar's p is about this trained student and the teacher on such questions.",
)


def result_table(runs: Sequence[Run], problems: Sequence[tuple[str, str]]) -> Table:
    """A line per run and split; runs that have not finished or cannot be read are listed."""
    caption = (
        "Accuracy, 95% Wilson interval and counts; the most frequent training label on the same "
        "questions, the teacher on those that it has a label for"
    )
    heads = ("run", "task", "split", "student", "teacher", "majority label", "step", "parameters")
    lines = [line for run in runs for line in _lines(run)]
    lines += [(name, reason, *[""] * 6) for name, reason in problems]
    return Table(caption, heads, "<<<>>>>>", lines)


def _lines(run: Run) -> list[tuple[str, ...]]:
    if not run.results:
        return [(run.name, "not finished", *[""] * 6)]
    lines = []
    for result in run.results["results"]:
        scores = (result, result.get("teacher"), result.get("majority"))
        accuracies = map(parse_accuracy, scores)
        fields = (str(accuracy) if accuracy else "-" for accuracy in accuracies)
        parameters = run.results.get("model", {}).get("parameters")
        size = f"{parameters:,}" if parameters else ""
        step = str(run.results["step"])
        lines.append((run.name, result["task"], result["split"], *fields, step, size))
    return lines


def pairs(by_run: Sequence[tuple[Run, Answers]]) -> list[tuple[str, PairTable]]:
    """Of the runs whose answers, and the teacher's, are right or wrong."""
    tables = []
    for run, answers in by_run:
        kept = answers.with_teacher
        student, teacher = answers.student[kept], answers.teacher[kept]
        if len(student) and np.isin([student, teacher], (0, 1)).all():
            tables.append((run.name, significance.pair_table(student, teacher)))
    return tables


def pair_table(of_runs: Sequence[tuple[str, PairTable]]) -> Table:
    """Each run and the teacher on the same test questions."""
    lines = [(name, *pair_fields(table)) for name, table in of_runs]
    heads = ("run", *PAIR_HEADS)
    return Table("Student and teacher on the same test questions", heads, "<>>>>>>>>", lines)


def numbers(of_runs: Sequence[tuple[str, PairTable]]) -> Any:
    """The tables before rounding."""
    return [{"run": name, **dataclasses.asdict(table)} for name, table in of_runs]
