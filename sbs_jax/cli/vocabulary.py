"""Train a SentencePiece vocabulary on your own text, with T5's ids.

A public checkpoint needs its own vocabulary (t5, mt5, bytes). Train one for a model that starts
from random parameters, in a language or notation that the public ones do not cover.

Examples:
  sbs vocabulary --input=train.jsonl --fields=input,label,rationale --size=8000 --output=spiece
  sbs vocabulary --input=corpus.csv.gz --fields=text --size=4000 --output=spiece
"""

from collections.abc import Iterator
from pathlib import Path

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.errors import UserError

FLAGS = flags.FlagValues()

shared.paths_flag(
    FLAGS,
    "input",
    None,
    "A table of texts: JSONL, JSON, CSV, TSV (also .gz), Parquet; may be given several times.",
    required=True,
)
flags.DEFINE_list("fields", ["input", "label", "rationale"], "Columns to read.", flag_values=FLAGS)
flags.DEFINE_integer(
    "size", 8000, "Pieces, without the 100 extra ids.", lower_bound=16, flag_values=FLAGS
)
shared.path(FLAGS, "output", None, "Writes OUTPUT.model.", required=True)


def main(argv: list[str]) -> None:
    """Trains, writes the model file and prints how to use it."""
    from sbs_jax.input_pipeline import vocabularies, vocabulary_training
    from sbs_jax.utils.files import write_bytes

    path = f"{FLAGS.output.removesuffix('.model')}.model"
    if Path(path).exists():
        raise UserError(f"--output={FLAGS.output}: {path} already exists; choose another name")
    try:
        model = vocabulary_training.train(_texts(), FLAGS.size)
    except UserError as error:
        raise UserError(f"--size={FLAGS.size}: {error}") from None
    write_bytes(path, model)
    size = vocabularies.load(path).size
    pieces = size - vocabularies.missing_extra_ids(model)
    few = f" of --size={FLAGS.size}: the text gives no more" if pieces < FLAGS.size else ""
    print(f"written: {path}, {pieces} pieces{few}")
    print(f"set VOCABULARY = {path!r} and VOCAB_SIZE to {size} or more")


def _texts() -> Iterator[str]:
    """The cells of every column that hold text."""
    from sbs_jax.datasets import tables

    any_text = False
    for path in FLAGS.input:
        for _, row in tables.rows(path):
            for field in FLAGS.fields:
                if text := str(row.get(field) or "").strip():
                    any_text = True
                    yield text
    if not any_text:
        raise UserError(f"--fields={','.join(FLAGS.fields)}: no text in {', '.join(FLAGS.input)}")
