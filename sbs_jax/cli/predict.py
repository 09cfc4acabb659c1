"""Label (and explain) new inputs with a trained student.

Reads JSONL (field input), CSV (.csv, column input) or JSONL from stdin (-), and writes JSONL in the
order of the input: id, the row's other fields, label and, on request, rationale. Only MODEL_DIR and
its vocabulary are needed. An interrupted command goes on where it stopped:

  sbs predict --model_dir=runs/cqa --input=new.jsonl --output=out.jsonl
  sbs predict --model_dir=runs/cqa --input=new.csv --output=out.jsonl --output_rationale
  echo '{"input": "Where do you store a loaf?"}' | sbs predict --model_dir=runs/cqa --input=-
"""

from absl import flags

FLAGS = flags.FlagValues()

flags.DEFINE_string(
    "model_dir", None, "The MODEL_DIR of sbs train.", required=True, flag_values=FLAGS
)
flags.DEFINE_string(
    "input", None, "A JSONL or CSV file, or - for stdin.", required=True, flag_values=FLAGS
)
flags.DEFINE_string("output", "-", "A JSONL file, or - for stdout.", flag_values=FLAGS)
flags.DEFINE_boolean(
    "output_rationale", False, "Decode the student's rationales too.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "batch_size", None, "Questions decoded at a time; default: the run's.", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "skip_bad_rows",
    False,
    "Leave out rows that are not JSON or have no input, and name them.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "step", None, "Checkpoint to take; default: the best on validation.", flag_values=FLAGS
)
flags.DEFINE_string(
    "vocabulary",
    None,
    "Where the run's vocabulary is now; default: where it was in training.",
    flag_values=FLAGS,
)


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
