"""`sbs predict`: a file or stream of questions in, one line per answer out, resumable.

Only MODEL_DIR and the vocabulary are needed: neither the run's dataset nor its task module.
"""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sbs_jax.errors import UserError
from sbs_jax.inference import confidence, prediction_files, scoring, streams
from sbs_jax.inference.prediction_files import STDIN, STDOUT, Answers, BadRow, Question
from sbs_jax.inference.predictor import Predictor
from sbs_jax.inference.student import check_explains, find_run
from sbs_jax.runs import layout
from sbs_jax.utils.console import Progress, say

# Batches are made of questions of similar length, out of this many batches; a kill loses as many.
_BATCHES_AT_ONCE = 16
_PROGRESS_SECONDS = 5.0
_BAD_ROWS_SHOWN = 20


def run(
    model_dir: str,
    input_path: str,
    output_path: str,
    *,
    step: int | None = None,
    vocabulary: str | None = None,
    batch_size: int | None = None,
    output_rationale: bool = False,
    skip_bad_rows: bool = False,
    with_confidence: bool = False,
    labels: Sequence[str] = (),
    text: str = "input",
    label: str = "label",
) -> int:
    """Answers every row of a file in its order; continues a file that an earlier start began.

    From stdin whatever has arrived is answered at once, at most a batch at a time.

    Args:
        with_confidence: write how sure the student is of each label.
        labels: the closed set it chooses from; default: `confidence.closed_set` of the run.
        text: the input's column, or field, of the question.
        label: that of the gold label.

    Returns:
        Number of rows answered now.

    Raises:
        UserError: a bad row without `skip_bad_rows`; files, run or vocabulary that do not fit.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch_size={batch_size}: must be at least 1")
    # Before the model is loaded: a bad row in the middle is known at the start.
    total = None if input_path == STDIN else _inspect(input_path, (text, label), skip_bad_rows)
    student = find_run(model_dir, vocabulary, step)
    if with_confidence and not labels:
        labels = confidence.closed_set(model_dir, student.checkpoint.step)
    if output_rationale:
        check_explains(student, model_dir)
    predictor = Predictor(student, batch_size, labels if with_confidence else ())
    metric = scoring.metric_of(model_dir)
    made_by = {
        "model_dir": str(model_dir),
        "step": student.checkpoint.step,
        "checkpoint": _checkpoint(model_dir, student.checkpoint.step),
        "output_rationale": output_rationale,
        prediction_files.METRIC: metric,
        **({"confidence": list(labels)} if with_confidence else {}),
    }
    questions = _questions(input_path, (text, label), skip_bad_rows)
    with Answers(output_path, made_by) as answers:
        done_before = answers.pass_over(questions)
        if done_before:
            say(f"{output_path}: continuing after {done_before} answers")
        chunks = _chunks(input_path, questions, predictor.batch_size)
        wanted = (output_rationale, with_confidence)
        left = None if total is None else total - done_before
        done = _answer_all(predictor, chunks, answers, wanted, left)
    for line in predictor.remarks():
        say(line)
    score = (
        None
        if output_path == STDOUT
        else scoring.summary(Path(output_path), metric, student.vocabulary)
    )
    if score:
        say(score)
    return done


def _questions(path: str, columns: tuple[str, str], skip_bad_rows: bool) -> Iterator[Question]:
    """Of the (text, label) columns."""
    rows = prediction_files.read(path, *columns)
    return prediction_files.good(_checked(rows, skip_bad_rows) if path == STDIN else rows)


def _chunks(path: str, questions: Iterator[Question], batch_size: int) -> Iterator[list[Question]]:
    """The questions in groups that are answered together."""
    if path == STDIN:
        yield from streams.arrived(questions, at_most=batch_size)
        return
    while chunk := list(itertools.islice(questions, batch_size * _BATCHES_AT_ONCE)):
        yield chunk


def _answer_all(
    predictor: Predictor,
    chunks: Iterable[list[Question]],
    answers: Answers,
    wanted: tuple[bool, bool],
    left: int | None,
) -> int:
    """Asks for labels and, as `wanted`, (rationales, confidence); returns the number of rows."""
    progress = Progress("predict", left, "answers", _PROGRESS_SECONDS)
    done = 0
    for chunk in chunks:
        records = [question.record for question in chunk]
        answers.write(chunk, predictor.answer(records, *wanted))
        done += len(chunk)
        progress.update(done)
    say(progress.line(done))
    return done


def _inspect(path: str, columns: tuple[str, str], skip_bad_rows: bool) -> int:
    """Reads a file once to find its bad rows; returns the number of rows that can be asked."""
    count, bad = 0, []
    for row in prediction_files.read(path, *columns):
        if isinstance(row, Question):
            count += 1
        else:
            bad.append(row)
    if bad and not skip_bad_rows:
        others = f" (and {len(bad) - 1} more bad rows)" if len(bad) > 1 else ""
        raise UserError(f"{bad[0]}{others}; correct the file or give --skip_bad_rows")
    for row in bad[:_BAD_ROWS_SHOWN]:
        say(f"skipped: {row}")
    if bad:
        say(f"{path}: {len(bad)} bad rows skipped, {count} rows left")
    return count


def _checked(rows: Iterable[Question | BadRow], skip_bad_rows: bool) -> Iterator[Question | BadRow]:
    """A stream's rows; a bad one raises UserError, or is reported, and counted at the end."""
    skipped = 0
    for row in rows:
        if isinstance(row, BadRow):
            if not skip_bad_rows:
                raise UserError(f"{row}; correct the row or give --skip_bad_rows")
            skipped += 1
            if skipped <= _BAD_ROWS_SHOWN:
                say(f"skipped: {row}")
        yield row
    if skipped:
        say(f"stdin: {skipped} bad rows skipped")


def _checkpoint(model_dir: str, step: int) -> str:
    """What distinguishes one checkpoint from another, wherever MODEL_DIR is moved."""
    sums = layout.checkpoints(model_dir) / str(step) / layout.CHECKSUMS
    return hashlib.sha256(sums.read_bytes()).hexdigest() if sums.is_file() else str(model_dir)
