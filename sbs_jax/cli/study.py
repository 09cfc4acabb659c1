"""Train a grid of runs, arms x data fractions x seeds, and write their report.

The gin file binds configs.StudyConfig: which experiments are the arms, which fractions and seeds
(gin/studies/*.gin are examples). The same command again does only what is missing.

  sbs study --gin_file=studies/cqa.gin --gin.STUDY_DIR='"studies/cqa"' --data_dir=data
  sbs study --gin_file=studies/demo.gin --gin.STUDY_DIR='"studies/demo"' --dry_run

STUDY_DIR/report.html holds tables and pictures, STUDY_DIR/study.jsonl a row per run,
STUDY_DIR/runs/ every MODEL_DIR.
"""

import os

from absl import flags

from sbs_jax.errors import UserError
from sbs_jax.utils import paths

FLAGS = flags.FlagValues()

flags.DEFINE_multi_string(
    "gin_file",
    None,
    "A gin file to read; may be given several times, later ones win.",
    flag_values=FLAGS,
)
flags.DEFINE_multi_string(
    "gin_bindings",
    [],
    "'NAME = VALUE', as --gin.NAME=VALUE, for the study's own file.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "gin_search_paths",
    [],
    "Folders to look for gin files in, before the packaged ones.",
    flag_values=FLAGS,
)
flags.DEFINE_string(
    "data_dir",
    None,
    "The folder `sbs data` wrote; default: $SBS_DATA_DIR, else ~/.cache/sbs_jax/data.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "dry_run", False, "Check every run's configuration, print them and stop.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Reads the files, then trains and reports."""
    if not FLAGS.gin_file:
        raise UserError("--gin_file is required (sbs study --help)")
    if FLAGS.data_dir:
        paths.set_data_dir(os.path.abspath(FLAGS.data_dir))
    from sbs_jax.studies import gin_study

    config, runs, modules = gin_study.load(
        FLAGS.gin_file, FLAGS.gin_bindings, FLAGS.gin_search_paths
    )
    if FLAGS.dry_run:
        print(gin_study.describe(config, runs))
        return
    print(gin_study.run(config, runs, modules))
    print(f"\nwritten: {config.study_dir}")
