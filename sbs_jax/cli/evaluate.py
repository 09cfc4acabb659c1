"""Score a trained student, and the teacher, against the gold labels.

Takes the checkpoint that was best on validation, or the one of --step. A training run writes its
results to results.json; this command scores again, another split or with rationales, and writes
only the predictions file of the split:

  sbs evaluate --model_dir=runs/cqa
  sbs evaluate --model_dir=runs/cqa --split=validation --output_rationale
  sbs evaluate --model_dir=runs/t5x_cqa

The last is a run of upstream T5X, whose newest checkpoint is taken.
"""

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import runtime
from sbs_jax.utils import buckets

FLAGS = flags.FlagValues()

shared.checkpoint(FLAGS)
shared.split(FLAGS, "test", "Split to score.")
shared.output_rationale(FLAGS)
shared.vocabulary(FLAGS, "where the run's is now, if moved.")
shared.data_dir(FLAGS)
shared.cache_dir(FLAGS)
runtime.define(FLAGS)


def main(argv: list[str]) -> None:
    """Scores and prints."""
    from sbs_jax.runs import run_gin

    buckets.reach(FLAGS.model_dir, "--model_dir")
    run_gin.register(FLAGS.model_dir)

    runtime.start(FLAGS)
    from sbs_jax.inference import evaluate

    evaluate.evaluate_split(
        FLAGS.model_dir, FLAGS.split, FLAGS.step, FLAGS.output_rationale, FLAGS.vocabulary
    )
