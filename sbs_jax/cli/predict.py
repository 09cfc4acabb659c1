"""Label (and explain) new inputs with a trained student.

Reads JSONL (field input), another table (CSV, TSV, Parquet, a JSON array: column input) or JSONL
from stdin (-), and writes JSONL in the order of the input: id, the row's other fields, label and,
if asked for, rationale. --text and --label name other columns, as in sbs train. Only MODEL_DIR and
its vocabulary are needed. An interrupted command continues where it stopped:

  sbs predict --model_dir=runs/cqa --input=new.jsonl --output=out.jsonl
  sbs predict --model_dir=runs/cqa --input=new.csv --output=out.jsonl --output_rationale
  sbs predict --model_dir=runs/reviews --input=reviews.csv --text=review --output=out.jsonl
  sbs predict --model_dir=runs/cqa --input=new.jsonl --output=out.jsonl --confidence
  sbs predict ... --output=out.jsonl --ask_teacher_below=0.8 --out=unsure.jsonl
  echo '{"input": "Where do you store a loaf?"}' | sbs predict --model_dir=runs/cqa --input=-
"""

from pathlib import Path

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import runtime
from sbs_jax.errors import UserError

FLAGS = flags.FlagValues()

shared.checkpoint(FLAGS)
shared.path(FLAGS, "input", None, "A JSONL file or another table, or - for stdin.", required=True)
flags.DEFINE_string("text", "input", "Column, or field, of the question.", flag_values=FLAGS)
flags.DEFINE_string("label", "label", "That of the gold label, if any.", flag_values=FLAGS)
shared.path(FLAGS, "output", "-", "A JSONL file, or - for stdout.")
shared.output_rationale(FLAGS)
flags.DEFINE_integer(
    "batch_size", None, "Questions decoded at a time; default: the run's.", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "skip_bad_rows",
    False,
    "Skip rows that are not JSON or have no input, and report them.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "confidence",
    False,
    "Write how sure the student is of each label: its share of the probability of all labels "
    "(closed set), or the probability of the output (open answers).",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "labels",
    [],
    "With --confidence: the labels to choose from; default: the gold labels of the run's "
    "predictions files, if they are few.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "ask_teacher_below",
    None,
    "Write the questions with a confidence below this to --out, as input of sbs annotate.",
    lower_bound=0.0,
    upper_bound=1.0,
    flag_values=FLAGS,
)
shared.path(FLAGS, "out", None, "File for --ask_teacher_below.")
shared.vocabulary(FLAGS, "the run's present one, if moved; default: as in training.")
shared.cache_dir(FLAGS)
runtime.define(FLAGS)


def main(argv: list[str]) -> None:
    """Answers all rows."""
    below = FLAGS.ask_teacher_below
    if (below is None) != (FLAGS.out is None):
        raise UserError("--ask_teacher_below and --out belong together: give both")
    if below is not None and FLAGS.output == "-":
        raise UserError("--ask_teacher_below needs a file: give --output=FILE")
    if FLAGS.labels and not (FLAGS.confidence or below is not None):
        raise UserError("--labels has an effect only with --confidence: give both")
    runtime.start(FLAGS)
    from sbs_jax.inference import confidence, predict

    predict.run(
        FLAGS.model_dir,
        FLAGS.input,
        FLAGS.output,
        step=FLAGS.step,
        vocabulary=FLAGS.vocabulary,
        batch_size=FLAGS.batch_size,
        output_rationale=FLAGS.output_rationale,
        skip_bad_rows=FLAGS.skip_bad_rows,
        with_confidence=FLAGS.confidence or below is not None,
        labels=FLAGS.labels,
        text=FLAGS.text,
        label=FLAGS.label,
    )
    if below is not None:
        count = confidence.pass_to_teacher(Path(FLAGS.output), below, Path(FLAGS.out))
        print(f"{FLAGS.out}: {count} questions with a confidence below {below:g}")
