"""Scores a trained student on a split of its dataset."""

import dataclasses
import os

from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.evaluation import lengths, results
from sbs_jax.evaluation.evaluator import Evaluator, Result
from sbs_jax.inference import student
from sbs_jax.input_pipeline import pipeline


def evaluate_split(
    model_dir: str | os.PathLike[str],
    split: str,
    step: int | None,
    output_rationale: bool,
    vocabulary: str | None = None,
) -> Result:
    """Scores a run's student on a split, prints it and writes the split's predictions file.

    A score in results.json that is no longer so, as gold labels were corrected, is replaced.

    Args:
        model_dir: of the run, of `sbs train` or of upstream T5X.
        split: train, validation or test.
        step: of the checkpoint; None takes the best on validation, of T5X the newest.
        output_rationale: decode the student's rationales too.
        vocabulary: where the run's vocabulary is now, if it was moved.

    Raises:
        UserError: no run, no such or no intact checkpoint, data that cannot be read, or
            rationales of a student that gives none.
    """
    partitioner = Partitioner()
    loaded = student.find_run(model_dir, vocabulary, step)
    assert loaded.run is not None
    if output_rationale:
        student.check_explains(loaded, model_dir)
    config = dataclasses.replace(
        loaded.run,
        model=loaded.config,
        vocabulary=loaded.vocabulary.spec,
        output_rationale=output_rationale,
    )
    source = pipeline.Source.of(config)
    evaluator = Evaluator(lengths.resolve(config, source), source, partitioner)
    result = evaluator.evaluate(split, loaded.params(partitioner), final=True)
    results.write_predictions(model_dir, result, loaded.checkpoint.step)
    results.replace_score(model_dir, result, loaded.checkpoint.step, evaluator.metric)
    results.print_result(result, loaded.checkpoint.step)
    return result
