"""Compares own results with numbers of others for the same dataset, method and size.

They are shown and never enter a mean or a test. `assets/paper_numbers.json` holds them with their
table and provenance: "reported" by the paper, a "rerun" of the original code by others, or
"recomputed" here from released completions. What the paper shows in figures only is not there.
"""

import functools
import json
from collections.abc import Iterator, Mapping
from typing import Any

from sbs_jax.reporting import costs
from sbs_jax.reporting.rows import TEACHER, Row, arm_name
from sbs_jax.reporting.statistics import Summary
from sbs_jax.reporting.tables import Table
from sbs_jax.runs.reader import Run
from sbs_jax.utils import paths


@functools.cache
def numbers() -> dict[str, Any]:
    """The content of the provenance file."""
    return json.loads(paths.asset("paper_numbers.json").read_text(encoding="utf-8"))


def paper_table(summary: Summary, runs: Mapping[Row, Run]) -> Table | None:
    """Own accuracies with all the data next to those of others; None without a match."""
    matches = [
        (line, number)
        for row, run in runs.items()
        for number in numbers()["numbers"]
        if (line := _line(summary, row, run, number))
    ]
    if not any(number["kind"] == "reported" for _, number in matches):
        return None
    heads = ("arm", "accuracy, %", "seeds", "test n", "theirs, %", "kind", "where")
    kinds = {number["kind"] for _, number in matches}
    caption = f"Compared with others. {' '.join(_sources(kinds))}"
    return Table(caption, heads, "<>>>><<", list(dict.fromkeys(line for line, _ in matches)))


def _line(summary: Summary, row: Row, run: Run, number: Mapping[str, Any]) -> tuple | None:
    """A number of others under an own one; None unless dataset, method and size match."""
    low, high = numbers()["parameters"]
    size = costs.parameters(run)
    cell = summary.cell(row.arm, 1.0)
    if row.fraction != 1.0 or cell is None or number["dataset"] != row.dataset:
        return None
    theirs = (f"{number['accuracy']:.2f}", number["kind"], number["table"])
    if number["arm"] == TEACHER and (teacher := row.teacher):
        return (TEACHER, f"{100 * teacher.value:.2f}", "", str(teacher.n), *theirs)
    if number["arm"] != row.arm.split("@")[0] or not (size and low <= size <= high):
        return None
    own = f"{100 * cell.accuracy.mean:.2f}"
    counts = (str(cell.accuracy.seeds), str(cell.test_questions))
    return (arm_name(row.arm), own, *counts, *theirs)


def _sources(kinds: set[str]) -> Iterator[str]:
    """Where the numbers of these kinds come from, a sentence each."""
    file = numbers()
    yield f"{file['source']}; {file['kind']}; {file['student']}."
    for kind, name in (("rerun", "reruns"), ("recomputed", "teacher")):
        if kind in kinds:
            yield f"{kind.capitalize()}: {file[name]['source']}."
