"""Write a trained student as a folder that can be deployed without sbs_jax.

SRC is a MODEL_DIR of sbs train (its best checkpoint on validation, or MODEL_DIR/checkpoints/STEP),
one of t5x.train (its newest), or any checkpoint that sbs convert reads. The result appears complete
or not at all:

  sbs export --to=hf runs/cqa students/cqa
  sbs export --to=stablehlo runs/cqa programs/cqa
  sbs export --to=stablehlo --platforms=cuda --input_lengths=64,256 runs/cqa programs/cqa

hf: weights, tokenizer and a model card with the run's results, for transformers and all that reads
its folders. stablehlo: programs for jax.export, for any number of questions at a time.
"""

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.errors import UserError

FLAGS = flags.FlagValues()
ARGUMENTS = "SRC DST"

_PLATFORMS = ["cpu", "cuda", "rocm", "tpu"]

flags.DEFINE_enum(
    "to", None, ["hf", "stablehlo"], "Target format.", required=True, flag_values=FLAGS
)
shared.vocabulary(FLAGS, "the run's present one, if moved; or the checkpoint's.")
shared.cache_dir(FLAGS)
flags.DEFINE_list(
    "platforms",
    ["cpu", "cuda", "tpu"],
    f"For stablehlo: platforms of the programs, of {', '.join(_PLATFORMS)}.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "input_lengths",
    [],
    "For stablehlo: tokens of a question; a program for each. Default: the run's, and its half, "
    "quarter and eighth.",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Exports and prints what was written and compared."""
    for name in ("platforms", "input_lengths"):
        if FLAGS[name].present and FLAGS.to != "stablehlo":
            raise UserError(f"--{name}: has an effect only with --to=stablehlo; drop it")
    platforms, lengths = _platforms(), _lengths()
    from sbs_jax.export import hugging_face, stablehlo
    from sbs_jax.inference import student

    source, destination = argv
    exported = student.find(source, FLAGS.vocabulary)
    if FLAGS.to == "hf":
        compared = hugging_face.write(exported, destination)
        done = f"{destination}: a folder for transformers; every array equal bit for bit"
        done += ", and the logits of a fixed input" if compared else " (logits not computed)"
    else:
        compared = stablehlo.write(exported, destination, platforms, lengths)
        done = f"{destination}: programs for jax.export on {', '.join(platforms)}"
        done += "; one was loaded again and gave the same ids" if compared else " (not run)"
    print(f"{exported.checkpoint.path}: {exported.checkpoint.size:,} parameters")
    print(done)
    if not exported.results:
        print("no results are known for this checkpoint; README.md says so")


def _platforms() -> list[str]:
    unknown = [name for name in FLAGS.platforms if name not in _PLATFORMS]
    if unknown or not FLAGS.platforms:
        raise UserError(f"--platforms={','.join(unknown)}: give some of {', '.join(_PLATFORMS)}")
    return FLAGS.platforms


def _lengths() -> list[int]:
    lengths = [int(text) if text.isdigit() else 0 for text in FLAGS.input_lengths]
    if not all(lengths):
        raise UserError(f"--input_lengths={','.join(FLAGS.input_lengths)}: give whole numbers")
    return lengths
