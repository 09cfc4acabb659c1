"""Student, then teacher: accuracy and cost for every confidence from which the student answers.

Reads what a run, or `sbs predict --confidence`, left; no model. The temperature of the calibration
and the threshold that is compared with the teacher alone are chosen on validation:

  sbs cascade --model_dir=runs/cqa
  sbs cascade --model_dir=runs/cqa --thresholds=0.5,0.75,0.9 --price=0.002
  sbs cascade --predictions=out.jsonl --validation=valid.jsonl --teacher=annotated/rationales.jsonl

`sbs predict --ask_teacher_below=P --out=FILE` then writes the questions that are the teacher's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.errors import UserError
from sbs_jax.utils.console import say

FLAGS = flags.FlagValues()

shared.path(FLAGS, "model_dir", None, "The MODEL_DIR of a finished run.")
shared.path(FLAGS, "predictions", None, "Instead: answers with gold label and confidence (JSONL).")
shared.path(FLAGS, "validation", None, "With --predictions: answers to the validation questions.")
shared.path(
    FLAGS,
    "teacher",
    None,
    "With --predictions: the teacher's labels by id (rationales.jsonl of sbs annotate), for "
    "answers without teacher_label.",
)
flags.DEFINE_enum(
    "metric",
    None,
    ["text", "equation"],
    "With --predictions: judges labels where the file does not say whether they are right; "
    "default: the metric of the run that sbs predict asked, else text.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "thresholds",
    [],
    "Confidences from 0 to 1; default: 0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "price",
    None,
    "What the teacher's answer to one question costs; adds the cost of 1,000 questions.",
    lower_bound=0.0,
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    """Prints calibration and cascade."""
    if (FLAGS.model_dir is None) == (FLAGS.predictions is None):
        raise UserError("give either --model_dir or --predictions (sbs cascade --help)")
    if FLAGS.model_dir and (FLAGS.validation or FLAGS.teacher or FLAGS.metric):
        raise UserError("--validation, --teacher and --metric belong to --predictions: drop them")
    from sbs_jax.reporting import cascade, confidence

    thresholds = _thresholds(FLAGS.thresholds) or cascade.THRESHOLDS
    name, answers, validation = _of_run() if FLAGS.model_dir else _of_files()
    tables = confidence.confidence_tables(name, answers, validation, thresholds, FLAGS.price)
    if not tables:
        lacking = [row["id"] for row in answers.rows if confidence.confidences([row]) is None]
        raise UserError(
            f"{name}: {len(lacking)} of {len(answers.rows)} answers (first: id {lacking[0]!r}) "
            f"have no field {confidence.FIELD}; score the run again (sbs evaluate), or ask again "
            "with sbs predict --confidence"
        )
    if len(tables) == 1:
        raise UserError(
            f"{name}: no answer has a teacher_label; annotate the questions too (sbs annotate)"
        )
    print("\n\n".join(table.text() for table in tables if table.lines))


def _thresholds(texts: list[str]) -> tuple[float, ...]:
    try:
        values = tuple(sorted({float(text) for text in texts}))
    except ValueError as error:
        raise UserError(f"--thresholds: {error}; give numbers from 0 to 1") from None
    if wrong := [value for value in values if not 0 <= value <= 1]:
        raise UserError(f"--thresholds: {wrong[0]:g} is not from 0 to 1")
    return values


def _of_run() -> tuple[str, Any, Sequence[Any]]:
    """(Name, test answers, validation predictions) of --model_dir."""
    from sbs_jax.reporting import answers
    from sbs_jax.runs import reader, t5x_run

    t5x_run.refuse(FLAGS.model_dir)
    run = reader.read_run(Path(FLAGS.model_dir))
    of_test = answers.read(run)
    if of_test is None:
        raise UserError(
            f"--model_dir {FLAGS.model_dir}: no finished run with test predictions is there; give "
            "the MODEL_DIR of sbs train"
        )
    of_validation = answers.read(run, "validation")
    return run.name, of_test, of_validation.rows if of_validation else []


def _of_files() -> tuple[str, Any, Sequence[Any]]:
    """The same of --predictions and --validation."""
    from sbs_jax.datasets import annotations
    from sbs_jax.reporting import answers

    teacher = annotations.read(Path(FLAGS.teacher)) if FLAGS.teacher else {}

    def read(path: str, split: str) -> answers.Answers:
        return answers.read_file(Path(path), split, _metric(Path(path)), teacher)

    of_test = read(FLAGS.predictions, "test")
    of_validation = read(FLAGS.validation, "validation") if FLAGS.validation else None
    if FLAGS.teacher and (lacking := int((~of_test.with_teacher).sum())):
        say(f"{FLAGS.teacher}: has no label for {lacking} of {len(of_test.rows)} answers")
    return Path(FLAGS.predictions).name, of_test, of_validation.rows if of_validation else []


def _metric(path: Path) -> Any:
    """--metric, or that of the run whose answers a file holds."""
    from sbs_jax.inference import prediction_files

    metric = FLAGS.metric or prediction_files.metric_of(path) or "text"
    if metric not in ("text", "equation"):
        raise UserError(
            f"{path}: {metric} is a function of the dataset's; give the run's --model_dir, or "
            "--metric"
        )
    return metric
