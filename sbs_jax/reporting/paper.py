"""Numbers that the paper prints, beside own results of the same dataset, method and size.

They are shown and never enter a mean or a test. `assets/paper_numbers.json` holds them with their
table and provenance; what the paper shows in figures only is not there.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

from sbs_jax.reporting import costs
from sbs_jax.reporting.rows import Row, arm_name
from sbs_jax.reporting.statistics import Summary
from sbs_jax.reporting.tables import Table
from sbs_jax.runs.reader import Run
from sbs_jax.utils import paths


@functools.cache
def numbers() -> dict[str, Any]:
    """The content of the provenance file."""
    return json.loads(paths.asset("paper_numbers.json").read_text(encoding="utf-8"))


def paper_table(summary: Summary, runs: Mapping[Row, Run]) -> Table | None:
    """Own accuracies with all the data beside the paper's; None where nothing matches."""
    file = numbers()
    low, high = file["parameters"]
    lines = []
    for row in runs:
        size = costs.parameters(runs[row])
        cell = summary.cell(row.arm, 1.0)
        if row.fraction != 1.0 or cell is None or not (size and low <= size <= high):
            continue
        for number in file["numbers"]:
            if (number["dataset"], number["arm"]) == (row.dataset, row.arm.split("@")[0]):
                own = f"{100 * cell.accuracy.mean:.2f}"
                counts = (str(cell.accuracy.seeds), str(cell.test_questions))
                fields = (arm_name(row.arm), own, *counts, f"{number['accuracy']:.2f}")
                lines.append((*fields, number["table"]))
    caption = f"Beside the paper. {file['source']}; {file['kind']}; {file['student']}"
    heads = ("arm", "accuracy, %", "seeds", "test n", "paper, %", "where")
    return Table(caption, heads, "<>>>><", list(dict.fromkeys(lines))) if lines else None
