"""Tabulates truncated inputs, targets and answers of runs."""

from collections.abc import Sequence

from sbs_jax.reporting.tables import Table
from sbs_jax.runs import truncation
from sbs_jax.runs.reader import Run


def table(runs: Sequence[tuple[str, Run]]) -> Table:
    """A line per run, split and task with something cut off; empty where nothing was.

    Args:
        runs: (name, run).
    """
    caption = (
        "Truncated: inputs and targets longer than TASK_FEATURE_LENGTHS (gold labels: than "
        "MAX_DECODE_LENGTH), and answers that did not end"
    )
    heads = ("run", "split", "task", "inputs", "targets", "answers", "of")
    lines = [
        (name, cut.split, cut.task, *map(str, cut[2:]))
        for name, run in runs
        if run.results
        for cut in truncation.cuts(run.results)
    ]
    return Table(caption, heads, "<<<>>>>", lines)
