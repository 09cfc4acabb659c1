"""Convert a checkpoint between Hugging Face (hf), T5X (t5x) and our format (sbs).

The result is read again and compared with the source, bit by bit, before it gets its name. A model
of any size is converted array by array:

  sbs convert --to=sbs hf://google/t5-v1_1-base models/t5_1_1_base
  sbs convert --to=t5x models/t5_1_1_base models/t5x/checkpoint_0
  sbs convert --to=hf runs/cqa students/cqa
"""

import os

from absl import flags

from sbs_jax.cli import flags as shared

FLAGS = flags.FlagValues()
ARGUMENTS = "SRC DST"

_KINDS = ["hf", "t5x", "sbs"]

flags.DEFINE_enum("from", None, _KINDS, "Source format; default: detected.", flag_values=FLAGS)
flags.DEFINE_enum("to", None, _KINDS, "Target format.", required=True, flag_values=FLAGS)
shared.vocabulary(FLAGS, "copied to DST; needed where SRC does not name one.")
shared.cache_dir(FLAGS)


def main(argv: list[str]) -> None:
    """Converts and prints what was compared."""
    from sbs_jax.checkpoints.convert import convert
    from sbs_jax.checkpoints.formats.hf_tokenizer import TOKENIZER_CONFIG
    from sbs_jax.checkpoints.formats.hf_vocabulary import describe_added
    from sbs_jax.checkpoints.initial import FORMATS

    source, destination = argv
    done = convert(source, destination, FLAGS.to, FLAGS["from"].value, FLAGS.vocabulary)
    before, written = done.source, done.written
    print(
        f"{before.path}: {FORMATS[before.kind]} checkpoint of step {before.step}, "
        f"{len(before.params)} arrays, {before.size:,} parameters"
    )
    checked = "every array equal bit for bit"
    checked += ", and the logits of a fixed input" if done.logits else " (logits not computed)"
    print(f"{written.path}: written as {FORMATS[written.kind]} checkpoint; {checked}")
    if before.added_tokens:
        print(f"{source}: {describe_added(before.added_tokens)}; --vocabulary leaves them out")
    if before.vocabulary is None:
        print(f"{source} does not say which vocabulary it has; --vocabulary adds it")
    elif FLAGS.to == "hf" and not os.path.exists(os.path.join(destination, TOKENIZER_CONFIG)):
        print("no tokenizer.json: it cannot hold this kind of SentencePiece model")
