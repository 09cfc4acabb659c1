"""Decode every example of a split once, score it, and put the teacher's score beside it."""

import dataclasses
import json
from pathlib import Path

from sbs_jax.datasets.records import Record
from sbs_jax.datasets.registry import Selection
from sbs_jax.evaluation.decoder import Decoder
from sbs_jax.input_pipeline.pipeline import Split
from sbs_jax.metrics import accuracy as metrics
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.utils.files import write_lines


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
