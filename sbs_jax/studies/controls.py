"""Holds updates, or compute, equal between the arms of a study."""

from collections.abc import Sequence

from sbs_jax.studies import estimate
from sbs_jax.studies.cells import Run
from sbs_jax.studies.gin_cells import More

SENTENCES = {
    "updates": (
        "The comparison is at equal updates unless an arm sets TRAIN_STEPS; the CPU-seconds next "
        "to it are those of the updates alone."
    ),
    "compute": (
        "The comparison is at equal compute: every arm got as many updates as cost the arithmetic "
        "of the costliest arm, by the lengths of its questions and targets; the CPU-seconds next "
        "to it are measured."
    ),
}


def equal_compute(runs: Sequence[Run]) -> More:
    """TRAIN_STEPS of every arm, so that all cost what the costliest does.

    Args:
        runs: one of every group; those of one dataset and size are compared.

    Raises:
        UserError: the records or the vocabulary are not there.
    """
    updates = {run.group: estimate.by_lengths(run.config) for run in runs}
    most: dict[tuple[str | None, str | None], float] = {}
    for run in runs:
        place = run.dataset, run.size
        most[place] = max(most.get(place, 0.0), updates[run.group] * run.config.train_steps)
    return {
        run.group: [f"TRAIN_STEPS = {round(most[run.dataset, run.size] / updates[run.group])}"]
        for run in runs
    }
