"""Decode every example of a split once, score it, and put the teacher's score beside it."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from sbs_jax.configs import T5Config
from sbs_jax.datasets.records import Record
from sbs_jax.datasets.registry import Selection
from sbs_jax.distributed import multihost
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.input_pipeline import batches
from sbs_jax.input_pipeline.pipeline import Split
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.metrics import accuracy as metrics
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.models.decoding import greedy
from sbs_jax.utils.files import write_lines

_WIDTH_MULTIPLE = 16  # encoder widths are rounded up to this: few shapes, few compilations


@dataclasses.dataclass(frozen=True)
class Result:
    """A split's score as counts, and one prediction per record."""

    task: str
    split: str
    accuracy: Accuracy
    teacher: Accuracy | None
    majority: Accuracy | None
    predictions: list[dict]

    def to_json(self) -> dict:
        """The entry of results.json."""
        return {
            "task": self.task,
            "split": self.split,
            **self.accuracy.to_json(),
            "teacher": self.teacher and self.teacher.to_json(),
            "majority": self.majority and self.majority.to_json(),
        }


class Decoder:
    """Turns rows of a token table into text, with one model on one mesh."""

    def __init__(
        self,
        config: T5Config,
        partitioner: Partitioner,
        vocabulary: Vocabulary,
        batch_size: int,
    ) -> None:
        self._config = config
        self._partitioner = partitioner
        self._vocabulary = vocabulary
        shards = partitioner.batch_shards
        self._batch_size = -(-batch_size // shards) * shards

    def decode(
        self, params: dict, table: batches.Table, rows: np.ndarray, max_decode_length: int
    ) -> list[str]:
        """The greedy output of every row, in the order of `rows`."""
        outputs: list[str | None] = [None] * len(rows)
        for places, tokens in batches.eval_batches(
            table, rows, self._batch_size, width_multiple=_WIDTH_MULTIPLE
        ):
            ids = greedy(
                params,
                self._partitioner.put_rows(tokens),
                config=self._config,
                partitioner=self._partitioner,
                max_decode_length=max_decode_length,
            )
            for place, row in zip(places, self._partitioner.fetch(ids), strict=True):
                if place >= 0:
                    outputs[place] = self._vocabulary.decode(row.tolist())
            multihost.sign_of_progress()
        assert None not in outputs, "every example is decoded exactly once"
        return outputs


def score(
    decoder: Decoder,
    params: dict,
    selection: Selection,
    split: Split,
    max_decode_length: int,
    rationale_length: int,
    majority: Accuracy | None = None,
) -> Result:
    """Decodes the split's questions; compares the student's and the teacher's answers with gold.

    Args:
        params: of the student.
        max_decode_length: most new tokens of an answer; `rationale_length`: of a rationale.
        majority: what guessing the most frequent training label scores here.
    """
    metric = selection.dataset.metric
    outputs = decoder.decode(params, split.label_table, split.rows, max_decode_length)
    answers = [selection.method.answer(output) for output in outputs]
    rationales: list[str | None] = [None] * len(answers)
    if split.rationale_table is not None:
        rationales = decoder.decode(params, split.rationale_table, split.rows, rationale_length)
    predictions = [
        _prediction(record, answer, rationale, metric)
        for record, answer, rationale in zip(split.records, answers, rationales, strict=True)
    ]
    correct = sum(row["correct"] for row in predictions)
    return Result(
        task=f"{selection.dataset.name}_{selection.method.eval_view}",
        split=split.name,
        accuracy=Accuracy(correct, len(predictions)),
        teacher=teacher_accuracy(split.records, metric),
        majority=majority,
        predictions=predictions,
    )


def _prediction(record: Record, answer: str, rationale: str | None, metric: str) -> dict:
    return {
        "id": record.id,
        "input": record.input,
        "gold": record.label,
        "label": answer,
        "correct": metrics.is_correct(metric, answer, record.label),
        "rationale": rationale,
        "teacher_label": record.llm_label,
        "teacher_rationale": record.rationale,
    }


def teacher_accuracy(records: list[Record], metric: str) -> Accuracy | None:
    """The teacher's labels against gold, unreadable ones counted as wrong; None without labels."""
    labelled = [record for record in records if record.llm_label is not None]
    if not labelled:
        return None
    correct = sum(metrics.is_correct(metric, r.llm_label, r.label) for r in labelled)
    return Accuracy(correct, len(labelled))


def write_predictions(model_dir: Path, result: Result, step: int) -> Path:
    """predictions-TASK-SPLIT-STEP.jsonl, complete or not there at all."""
    path = model_dir / f"predictions-{result.task}-{result.split}-{step}.jsonl"
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in result.predictions)
    write_lines(path, lines)
    return path
