"""The whole pipeline, offline, on the embedded dataset.

Annotates generated questions with the embedded teacher, trains students with and without its
rationales on 25%, 50% and 100% of the labels with three seeds, scores them on unseen questions
and prints a table. About ten CPU-minutes, shared out over the cores; no accelerator is used.

Examples:
  sbs demo
  sbs demo --out=runs/demo

The same command again does only what is missing. OUT/report.html holds the tables, pictures and
samples; OUT/accuracy.png the main picture; OUT/runs/ every MODEL_DIR; OUT/data/ the questions.
"""

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import runtime

FLAGS = flags.FlagValues()

shared.path(FLAGS, "out", "out/demo", "Folder to write to.")
shared.cache_dir(FLAGS)
runtime.define(FLAGS)


def main(argv: list[str]) -> None:
    """Runs the demonstration and prints its tables."""
    runtime.start(FLAGS)
    from sbs_jax.studies import demo

    print(demo.run(FLAGS.out))
    print(f"\nwritten: {FLAGS.out}")
