"""A trained student scored on a split of its dataset."""

import dataclasses
import os
from pathlib import Path

from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.evaluation import evaluator, results
from sbs_jax.evaluation.evaluator import Result
from sbs_jax.inference import student
from sbs_jax.input_pipeline import pipeline


def evaluate_split(
    model_dir: str | os.PathLike[str], split: str, step: int | None, output_rationale: bool
) -> Result:
    """Scores a run's student on a split, prints it and writes the split's predictions file.

    Raises:
        UserError: no run, no such or no intact checkpoint, or data that cannot be read.
    """
    partitioner = Partitioner()
    found = student.find_run(model_dir, step=step)
    assert found.run is not None
    config = dataclasses.replace(found.run, model=found.config, output_rationale=output_rationale)
    scorer = results.Scorer(config, pipeline.Source.of(config), partitioner)
    result = scorer(split, found.params(partitioner), final=True)
    evaluator.write_predictions(Path(model_dir), result, found.checkpoint.step)
    results.tell(result, found.checkpoint.step)
    return result
