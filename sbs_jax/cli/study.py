"""Train a grid of runs, arms x data fractions x seeds, and write their report.

The gin file binds configs.StudyConfig: which experiments are the arms, which fractions and seeds
(gin/studies/*.gin are examples). The same command again does only what is missing.

  sbs study --gin_file=studies/cqa.gin --gin.STUDY_DIR='"studies/cqa"' --data_dir=data
  sbs study --gin_file=studies/demo.gin --gin.STUDY_DIR='"studies/demo"' --dry_run --device_price=2

STUDY_DIR is a local folder, or gs://BUCKET/FOLDER with the extra gcs. On several machines that
share it, start the command on each with --gin.StudyConfig.shared=True.

STUDY_DIR/report.html begins with the verdict, STUDY_DIR/study.jsonl holds a row per run,
STUDY_DIR/runs/ every MODEL_DIR. A run that fails is a row with its reason; the others go on, the
command ends with status 2, and the next start tries it again. docs/studies.md explains the grid.
"""

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import runtime
from sbs_jax.errors import UserError

FLAGS = flags.FlagValues()

shared.gin(FLAGS)
shared.data_dir(FLAGS)
shared.cache_dir(FLAGS)
runtime.define(FLAGS)
flags.DEFINE_boolean(
    "dry_run",
    False,
    "Check every run's configuration, print them and what they need, and stop.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "device_tflops",
    100.0,
    "With --dry_run: TFLOP/s that a device sustains in training.",
    lower_bound=1e-6,
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "device_price",
    None,
    "With --dry_run: what an hour of a device costs; adds the cost of all runs.",
    lower_bound=0.0,
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Reads the files, then trains and reports."""
    if not FLAGS.gin_file:
        raise UserError("--gin_file is required (sbs study --help)")
    from sbs_jax.studies import estimate, gin_study

    grid = gin_study.load(FLAGS.gin_file, FLAGS.gin_bindings, FLAGS.gin_search_paths)
    if FLAGS.dry_run:
        print(gin_study.describe(grid, estimate.Device(FLAGS.device_tflops, FLAGS.device_price)))
        return
    runtime.start(FLAGS)
    print(gin_study.run(grid))
    print(f"\nwritten: {grid.config.study_dir}")
