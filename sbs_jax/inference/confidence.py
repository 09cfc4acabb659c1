"""Which labels a finished run's student chooses from, and the questions to pass to the teacher."""

import json
from collections.abc import Mapping

from sbs_jax.errors import UserError
from sbs_jax.evaluation import confidence as evaluated
from sbs_jax.evaluation.confidence import CONFIDENCE, PROBABILITIES
from sbs_jax.runs import layout
from sbs_jax.utils import jsonl
from sbs_jax.utils.buckets import AnyPath
from sbs_jax.utils.files import write_lines


def closed_set(model_dir: str | AnyPath, step: int) -> list[str]:
    """The labels a student chooses from: the gold labels of its run's predictions files.

    Empty where the run left no such file for the step, or its labels are open answers
    (`evaluation.confidence.closed_set`).
    """
    paths = (
        path
        for split in ("validation", "test")
        for path in layout.find_predictions(model_dir, split, step)
    )
    rows = (row for path in paths for _, row in jsonl.objects(path))
    return evaluated.closed_set(row["gold"] for row in rows if isinstance(row.get("gold"), str))


def pass_to_teacher(answers: AnyPath, below: float, out: AnyPath) -> int:
    """Writes the questions with a confidence below a bound as an input file of `sbs annotate`.

    Args:
        answers: a finished output of `sbs predict --confidence`.
        below: the bound.
        out: is replaced; rows have id, input and the question's other fields, under the names that
            `sbs annotate` reads.

    Returns:
        Number of questions written.

    Raises:
        UserError: a file cannot be read or written.
    """
    lines = []
    for where, row in jsonl.objects(answers):
        if not isinstance(row.get(CONFIDENCE), int | float):
            raise UserError(f"{where}: no field {CONFIDENCE}; run sbs predict --confidence")
        if row[CONFIDENCE] < below:
            lines.append(json.dumps(_question(row), ensure_ascii=False) + "\n")
    try:
        write_lines(out, lines)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})") from None
    return len(lines)


def _question(row: Mapping[str, object]) -> dict[str, object]:
    """A row of the answers as the question it was: without the student's own fields."""
    student = {"label", "rationale", CONFIDENCE, PROBABILITIES}
    question = {name: value for name, value in row.items() if name not in student}
    if "gold" in question:
        question["label"] = question.pop("gold")
    return question
