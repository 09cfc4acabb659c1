"""Score a trained student, and the teacher, against the gold labels.

Takes the checkpoint that was best on validation, or the one of --step. A training run writes its
results to results.json; this command scores again, another split or with rationales, and writes
only the predictions file of the split:

  sbs evaluate --model_dir=runs/cqa
  sbs evaluate --model_dir=runs/cqa --split=validation --output_rationale
"""

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import runtime
from sbs_jax.errors import UserError
from sbs_jax.utils import buckets

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
    from sbs_jax.runs import layout, t5x_run

    buckets.reach(FLAGS.model_dir, "--model_dir")
    t5x_run.refuse(FLAGS.model_dir)
    config = buckets.place(FLAGS.model_dir) / layout.CONFIG_GIN
    if not config.is_file():
        raise UserError(f"{config}: not there; --model_dir is the MODEL_DIR of sbs train")
    with buckets.local_copy(config) as file:
        scan = gin_loader.load([file], [])
        if "MODEL_DIR" in scan.macros:  # the folder may have been moved, with its records
            scan = gin_loader.load([file], [f"MODEL_DIR = {FLAGS.model_dir!r}"])
    # Imports the modules, and calls the functions, that define the run's dataset.
    gin_loader.build("configs.TrainConfig", scan)

    runtime.start(FLAGS)
    from sbs_jax.inference import evaluate

    evaluate.evaluate_split(FLAGS.model_dir, FLAGS.split, FLAGS.step, FLAGS.output_rationale)
