"""Review a teacher's answers on one HTML page: accept, edit or drop them; read the edits back.

The page needs no server: open OUT/review.html, decide, press "Save edits", and give the file that
the browser saves to --edits. Decisions are kept in OUT/edits.jsonl and stay when the questions are
annotated again.

Examples:
  sbs review ann/cqa
  sbs review ann/cqa --edits=~/Downloads/edits.jsonl
"""

import pathlib

from absl import flags

from sbs_jax.cli import flags as shared

FLAGS = flags.FlagValues()
ARGUMENTS = "FOLDER"

shared.path(FLAGS, "edits", None, "Apply the edits that the page saved.")


def main(argv: list[str]) -> None:
    """Writes the page, or applies the edits saved from it."""
    from sbs_jax.teacher import edits, review

    folder = pathlib.Path(argv[0])
    if FLAGS.edits:
        count = review.take(folder, pathlib.Path(FLAGS.edits))
        print(f"{count} new decisions; {len(edits.load(folder))} records decided in {folder}")
    page, count = review.write(folder)
    print(f"{page}: {count} answers; open it in a browser")
