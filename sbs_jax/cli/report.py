"""Report whether the student beats the teacher: one HTML page from finished runs and studies.

Examples:
  sbs report --runs runs/cqa --out reports/cqa
  sbs report --runs runs/cqa runs/svamp --out reports/both
  sbs report --runs demo --out demo/again
  sbs report --runs gs://BUCKET/studies/cqa --out gs://BUCKET/reports/cqa

Writes OUT/report.html, which needs no other file, the tables as results.md and results.json, and
each picture as PNG and SVG with its numbers as CSV and JSON. docs/studies.md explains every number.
"""

from absl import flags

from sbs_jax.cli import flags as shared

FLAGS = flags.FlagValues()
ARGUMENTS = "[SRC...]"

shared.places_flag(
    FLAGS,
    "runs",
    None,
    "Folder of a run (MODEL_DIR) or a study, or a folder that holds such; several may follow.",
    required=True,
)
shared.place(FLAGS, "out", None, "Folder to write to, local or gs://.", required=True)


def main(argv: list[str]) -> None:
    """Writes the report of the runs named and prints its tables."""
    from sbs_jax.reporting import page

    print(page.write([*FLAGS.runs, *argv], FLAGS.out))
    print(f"\nwritten: {FLAGS.out}/{page.PAGE}")
