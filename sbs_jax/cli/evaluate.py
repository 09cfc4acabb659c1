"""Score a trained student against the gold labels, and the teacher beside it.

Takes the checkpoint that was best on validation, or the one of --step. Results of a training run
stand in its results.json; this scores again, another split or with rationales, and changes nothing
but the predictions file of the split:

  sbs evaluate --model_dir=runs/cqa
  sbs evaluate --model_dir=runs/cqa --split=validation --output_rationale
"""

import os

from absl import flags

from sbs_jax.errors import UserError

FLAGS = flags.FlagValues()

flags.DEFINE_string(
    "model_dir", None, "The MODEL_DIR of sbs train.", required=True, flag_values=FLAGS
)
flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "Rows to score.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "step", None, "Checkpoint to score; default: the best on validation.", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "output_rationale", False, "Decode the student's rationales too.", flag_values=FLAGS
)
flags.DEFINE_string(
    "data_dir",
    None,
    "The folder `sbs data` wrote; default: $SBS_DATA_DIR, else ~/.cache/sbs_jax/data.",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Scores and prints."""
    from sbs_jax.configs import gin_loader
    from sbs_jax.utils import paths

    if FLAGS.data_dir:
        paths.set_data_dir(FLAGS.data_dir)
    config = os.path.join(FLAGS.model_dir, "config.gin")
    if not os.path.exists(config):
        raise UserError(f"{config}: not there; --model_dir is the MODEL_DIR of sbs train")
    # Imports the modules, and calls the functions, that define the run's dataset.
    gin_loader.build("configs.TrainConfig", gin_loader.load([config], []))

    from sbs_jax.inference import student

    student.evaluate_split(FLAGS.model_dir, FLAGS.split, FLAGS.step, FLAGS.output_rationale)
