"""Score a trained student against the gold labels, and the teacher beside it.

Takes the checkpoint that was best on validation, or the one of --step. Results of a training run
stand in its results.json; this scores again, another split or with rationales, and changes nothing
but the predictions file of the split:

  sbs evaluate --model_dir=runs/cqa
  sbs evaluate --model_dir=runs/cqa --split=validation --output_rationale
"""

import os

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import runtime
from sbs_jax.errors import UserError

FLAGS = flags.FlagValues()

shared.checkpoint(FLAGS)
shared.split(FLAGS, "test", "Split to score.")
shared.output_rationale(FLAGS)
shared.data_dir(FLAGS)
shared.cache_dir(FLAGS)
runtime.define(FLAGS)


def main(argv: list[str]) -> None:
    """Scores and prints."""
    from sbs_jax.configs import gin_loader

    config = os.path.join(FLAGS.model_dir, "config.gin")
    if not os.path.exists(config):
        raise UserError(f"{config}: not there; --model_dir is the MODEL_DIR of sbs train")
    # Imports the modules, and calls the functions, that define the run's dataset.
    gin_loader.build("configs.TrainConfig", gin_loader.load([config], []))

    runtime.start(FLAGS)
    from sbs_jax.inference import evaluate

    evaluate.evaluate_split(FLAGS.model_dir, FLAGS.split, FLAGS.step, FLAGS.output_rationale)
