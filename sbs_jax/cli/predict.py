"""Label (and explain) new inputs with a trained student.

Reads JSONL (field input), CSV (.csv, column input) or JSONL from stdin (-), and writes JSONL in the
order of the input: id, the row's other fields, label and, on request, rationale. Only MODEL_DIR and
its vocabulary are needed. An interrupted command goes on where it stopped:

  sbs predict --model_dir=runs/cqa --input=new.jsonl --output=out.jsonl
  sbs predict --model_dir=runs/cqa --input=new.csv --output=out.jsonl --output_rationale
  echo '{"input": "Where do you store a loaf?"}' | sbs predict --model_dir=runs/cqa --input=-
"""

from absl import flags

from sbs_jax.cli import flags as shared

FLAGS = flags.FlagValues()

shared.checkpoint(FLAGS)
shared.path(FLAGS, "input", None, "A JSONL or CSV file, or - for stdin.", required=True)
shared.path(FLAGS, "output", "-", "A JSONL file, or - for stdout.")
shared.output_rationale(FLAGS)
flags.DEFINE_integer(
    "batch_size", None, "Questions decoded at a time; default: the run's.", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "skip_bad_rows",
    False,
    "Leave out rows that are not JSON or have no input, and name them.",
    flag_values=FLAGS,
)
shared.vocabulary(FLAGS, "where the run's is now; default: where it was in training.")
shared.cache_dir(FLAGS)


def main(argv: list[str]) -> None:
    """Answers all rows."""
    from sbs_jax.inference import predict

    predict.run(
        FLAGS.model_dir,
        FLAGS.input,
        FLAGS.output,
        step=FLAGS.step,
        vocabulary=FLAGS.vocabulary,
        batch_size=FLAGS.batch_size,
        output_rationale=FLAGS.output_rationale,
        skip_bad_rows=FLAGS.skip_bad_rows,
    )
