"""Answers to new questions: a trained run's student, applied to rows without gold labels.

Only MODEL_DIR and the vocabulary are needed: neither the run's dataset nor its task module.
"""

import hashlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from sbs_jax.datasets import methods, registry
from sbs_jax.datasets.methods import View
from sbs_jax.datasets.records import Record
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.evaluation.evaluator import Decoder
from sbs_jax.inference import prediction_files
from sbs_jax.inference.prediction_files import Answers, BadRow, Question
from sbs_jax.inference.student import load_student, vocabulary_of
from sbs_jax.input_pipeline import token_cache
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.runs import run_dir
from sbs_jax.utils.console import duration, say

# Batches made of questions of similar length; as many as these are lost by a kill.
_BATCHES_AT_ONCE = 16
_PROGRESS_SECONDS = 5.0
_BAD_ROWS_SHOWN = 20


class Questions:
    """The tokens of questions, in memory: what `batches.Table` asks for, without targets."""

    def __init__(
        self,
        records: Sequence[Record],
        view: View,
        prefixes: methods.Prefixes,
        vocabulary: Vocabulary,
        length: int,
    ) -> None:
        texts = [view.texts(record, prefixes)[0] for record in records]
        sequences = token_cache.encode_with_eos(vocabulary, texts)
        self.cut = sum(len(ids) > length for ids in sequences)
        self._inputs = [np.array(token_cache.cut_to(ids, length), np.int32) for ids in sequences]
        self.n = len(records)
        self.ids = [record.id for record in records]
        self.input_lengths = np.array([len(ids) for ids in self._inputs], np.int32)
        self.target_lengths = np.zeros(self.n, np.int32)

    def inputs(self, row: int) -> Int[np.ndarray, " length"]:
        return self._inputs[row]

    def targets(self, row: int) -> Int[np.ndarray, " length"]:
        return np.zeros(0, np.int32)


class Student:
    """The student of a run, asked as the run trained it: prefixes, vocabulary, lengths, method.

    Args:
        step: of the checkpoint; None takes the best on validation.
        vocabulary: where the run's vocabulary is now; None: where it was.
        batch_size: questions decoded at a time; None: the run's.

    Attributes:
        explains: whether it was trained to give rationales.
        cut: questions so far that were longer than the run's inputs.

    Raises:
        UserError: no run or checkpoint there, or another vocabulary than the run's.
    """

    def __init__(
        self,
        model_dir: str,
        step: int | None = None,
        vocabulary: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        config = run_dir.load(model_dir)
        self._vocabulary = vocabulary_of(model_dir, vocabulary or config.vocabulary)
        partitioner = Partitioner()
        self._config, self._params, self.step = load_student(model_dir, step, partitioner)
        self._method = registry.method_of(config.mixture_or_task_name)
        self._prefixes = methods.Prefixes(config.label_prefix, config.rationale_prefix)
        self.batch_size = batch_size or config.eval_batch_size
        self._decoder = Decoder(config.model, partitioner, self._vocabulary, self.batch_size)
        self.cut = 0

    @property
    def explains(self) -> bool:
        return self._method.rationale_view is not None

    def answer(self, records: Sequence[Record], with_rationales: bool) -> list[dict[str, str]]:
        """{"label": .., "rationale"?: ..} for every record, whose gold label is not looked at."""
        targets = self._config.task_feature_lengths["targets"]
        outputs = self._ask(
            records, self._method.eval_view, self._config.max_decode_length or targets
        )
        answers = [{"label": self._method.answer(output)} for output in outputs]
        if with_rationales:
            rationales = self._ask(records, self._method.rationale_view, targets)
            for answer, rationale in zip(answers, rationales, strict=True):
                answer["rationale"] = rationale
        return answers

    def _ask(self, records: Sequence[Record], view: str, max_decode_length: int) -> list[str]:
        table = Questions(
            records,
            methods.VIEWS[view],
            self._prefixes,
            self._vocabulary,
            self._config.task_feature_lengths["inputs"],
        )
        self.cut += table.cut if view == self._method.eval_view else 0
        return self._decoder.decode(self._params, table, np.arange(table.n), max_decode_length)


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
) -> int:
    """Answers every row of a file, in its order; goes on where an earlier start was stopped.

    Returns:
        How many rows were answered now.

    Raises:
        UserError: a bad row without `skip_bad_rows`; files, run or vocabulary that do not fit.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch_size={batch_size}: must be at least 1")
    # Before the model is loaded: a bad row in the middle is known at the start.
    total = None if input_path == prediction_files.STDIN else _inspect(input_path, skip_bad_rows)
    student = Student(model_dir, step, vocabulary, batch_size)
    if output_rationale and not student.explains:
        raise UserError(f"--output_rationale: {model_dir} was not trained to give rationales")
    made_by = {
        "model_dir": str(model_dir),
        "step": student.step,
        "checkpoint": _checkpoint(model_dir, student.step),
        "output_rationale": output_rationale,
    }
    rows = prediction_files.read(input_path)
    questions = prediction_files.good(rows if total is not None else _strict(rows, skip_bad_rows))
    with Answers(output_path, made_by) as answers:
        before = answers.pass_over(questions)
        if before:
            say(f"{output_path}: goes on after {before} answers")
        done = _answer_all(student, questions, answers, output_rationale, total, before)
    if student.cut:
        say(f"{student.cut} questions were longer than the run's inputs and were cut")
    return done


def _answer_all(
    student: Student,
    questions: Any,
    answers: Answers,
    output_rationale: bool,
    total: int | None,
    before: int,
) -> int:
    progress = _Progress(total, before)
    while chunk := list(itertools.islice(questions, student.batch_size * _BATCHES_AT_ONCE)):
        records = [question.record for question in chunk]
        answers.write(chunk, student.answer(records, output_rationale))
        progress(len(chunk))
    progress.end()
    return progress.done


def _inspect(path: str, skip_bad_rows: bool) -> int:
    """Reads a file once to find its bad rows; returns how many rows can be asked."""
    count, bad = 0, []
    for row in prediction_files.read(path):
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


def _strict(rows: Any, skip_bad_rows: bool) -> Any:
    """A stream's rows; a bad one ends it, or is told and counted at the end."""
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
    """What tells one checkpoint from another, wherever MODEL_DIR is moved."""
    sums = Path(model_dir) / "checkpoints" / str(step) / "checksums.json"
    return hashlib.sha256(sums.read_bytes()).hexdigest() if sums.is_file() else str(model_dir)


class _Progress:
    """A line every few seconds, and one at the end."""

    def __init__(self, total: int | None, before: int) -> None:
        self._total, self._before = total, before
        self._began = self._told = time.monotonic()
        self.done = 0

    def __call__(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self._told >= _PROGRESS_SECONDS:
            self._told = time.monotonic()
            self._tell()

    def end(self) -> None:
        self._tell()

    def _tell(self) -> None:
        pace = self.done / max(time.monotonic() - self._began, 1e-9)
        known = self._total is not None
        left = self._total - self._before - self.done if known else 0
        of_all = f"/{self._total}" if known else ""
        ending = f"  ETA {duration(left / pace)}" if left and pace else ""
        say(f"{self._before + self.done}{of_all} answered  {pace:.1f}/s{ending}")
