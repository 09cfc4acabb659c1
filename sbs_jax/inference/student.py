"""A finished (or running) MODEL_DIR read again: its student, and its scores."""

import dataclasses
import os
from pathlib import Path

import jax

from sbs_jax.checkpoints.manager import Store
from sbs_jax.configs import TrainConfig
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.evaluation import evaluator, results
from sbs_jax.evaluation.evaluator import Result
from sbs_jax.input_pipeline import pipeline, vocabularies
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.models.t5 import init_params
from sbs_jax.runs import run_dir


def load_student(
    model_dir: str | os.PathLike[str], step: int | None, partitioner: Partitioner
) -> tuple[TrainConfig, dict, int]:
    """A run's configuration, parameters and their step; None takes the best on validation.

    Raises UserError if there is no run, or no such or no intact checkpoint.
    """
    config = run_dir.load(model_dir)
    shapes = jax.eval_shape(lambda: init_params(config.model, jax.random.key(0)))
    shapes = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        partitioner.param_shardings(shapes),
    )
    with Store(Path(model_dir) / "checkpoints", metric="accuracy", read_only=True) as store:
        chosen = step if step is not None else store.best_step() or store.latest_step()
        return config, store.restore_params(chosen, shapes), chosen


def vocabulary_of(model_dir: str | os.PathLike[str], spec: str) -> Vocabulary:
    """The vocabulary a run was trained with, which may lie elsewhere now.

    Raises UserError if there is none, or another one than the run's.
    """
    try:
        vocabulary = vocabularies.load(spec)
    except UserError as error:
        raise UserError(f"{error} (--vocabulary tells where it is now)") from None
    wanted = run_dir.fingerprints(model_dir).get("vocabulary_fingerprint", vocabulary.fingerprint)
    if vocabulary.fingerprint != wanted:
        raise UserError(
            f"--vocabulary {spec!r}: not the vocabulary {model_dir} was trained with; give that one"
        )
    return vocabulary


def evaluate_split(
    model_dir: str | os.PathLike[str], split: str, step: int | None, output_rationale: bool
) -> Result:
    """Scores a run's student on a split, prints it and writes the split's predictions file."""
    partitioner = Partitioner()
    config, params, step = load_student(model_dir, step, partitioner)
    config = dataclasses.replace(config, output_rationale=output_rationale)
    scorer = results.Scorer(config, pipeline.Source.of(config), partitioner)
    result = scorer(split, params, final=True)
    evaluator.write_predictions(Path(model_dir), result, step)
    results.tell(result, step)
    return result
