"""Decodes every example of a split once and scores it, with the teacher's score for comparison."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from sbs_jax.configs import TrainConfig
from sbs_jax.datasets import methods, registry
from sbs_jax.datasets.records import Record
from sbs_jax.datasets.registry import TEST, VALIDATION
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.evaluation.confidence import Answers, ClosedSet, ConfidentDecoder, closed_set
from sbs_jax.evaluation.decoder import Decoder, unended
from sbs_jax.input_pipeline import label_check, pipeline
from sbs_jax.input_pipeline.pipeline import Split
from sbs_jax.metrics import accuracy as metrics
from sbs_jax.metrics import extra
from sbs_jax.metrics.accuracy import Accuracy, Metric
from sbs_jax.runs import score_identity
from sbs_jax.runs.score_identity import ScoreIdentity


@dataclasses.dataclass(frozen=True)
class Result:
    """A split's score as counts, and one prediction per record.

    Attributes:
        identity: fingerprints of what was scored.
        max_decode_length: maximum number of new tokens of an answer.
        truncated_answers: answers that reached it before they ended.
        metrics: values of the dataset's further metrics, by name.
        pace: seconds per question of decoding labels in batches; None if unknown.
    """

    task: str
    split: str
    accuracy: Accuracy
    teacher: Accuracy | None
    majority: Accuracy | None
    predictions: list[dict]
    identity: ScoreIdentity
    max_decode_length: int
    truncated_answers: int
    metrics: dict[str, Any]
    pace: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry of results.json."""
        return {
            "task": self.task,
            "split": self.split,
            **self.accuracy.to_json(),
            "teacher": self.teacher and self.teacher.to_json(),
            "majority": self.majority and self.majority.to_json(),
            "max_decode_length": self.max_decode_length,
            "truncated_answers": self.truncated_answers,
            **({"metrics": self.metrics} if self.metrics else {}),
            **self.identity._asdict(),
        }


class Evaluator:
    """Scores a student's parameters on the splits of a run's dataset.

    Args:
        config: of the run; its `max_decode_length` is a number (`lengths.resolve`).
    """

    def __init__(
        self, config: TrainConfig, source: pipeline.Source, partitioner: Partitioner
    ) -> None:
        self._config, self._source = config, source
        self._splits: dict[tuple[str, bool], Split] = {}
        self._decoder = Decoder(
            config.model, partitioner, source.vocabulary, config.eval_batch_size
        )

    @property
    def metric(self) -> Metric:
        """The dataset's metric."""
        return self._source.selection.dataset.metric

    @property
    def max_decode_length(self) -> int:
        """Maximum number of new tokens of an answer."""
        return self._config.max_decode_length or self._config.task_feature_lengths["targets"]

    @property
    def explains(self) -> bool:
        """Whether final predictions hold rationales: the run asks for them, its student has any."""
        return self._config.output_rationale and bool(self._source.selection.method.rationale_view)

    def open_splits(self) -> None:
        """Reads and tokenises the splits that a run scores.

        Raises:
            UserError: a split is missing, empty or broken.
        """
        self.split(VALIDATION)
        self.split(TEST, self._config.output_rationale)

    def identity(self, name: str) -> ScoreIdentity:
        """The fingerprints of what `evaluate` would score now."""
        records = self.split(name).records
        view = self._source.selection.eval_view
        return score_identity.identify(
            inputs=[record.input for record in records],
            student_inputs=[view.inputs(record) for record in records],
            golds=[record.label for record in records],
            metric=self.metric,
            max_decode_length=self.max_decode_length,
        )

    def teacher(self, name: str) -> Accuracy | None:
        """The teacher's accuracy on a split; None without teacher labels."""
        return teacher_accuracy(self.split(name).records, self.metric)

    def evaluate(self, name: str, params: dict, final: bool = False) -> Result:
        """Decodes and scores a split; compares student and teacher with gold.

        Args:
            name: of the split.
            params: of the student.
            final: adds confidences, the majority baseline and, where the run asks for them,
                rationales.

        Raises:
            UserError: the metric cannot score an answer.
        """
        selection, vocabulary = self._source.selection, self._source.vocabulary
        split = self.split(name, final and self._config.output_rationale)
        answers = self._answers(params, split, final)
        # As the original, which decodes the gold ids too: what the vocabulary makes of the label.
        golds = [label_check.written(vocabulary, record.label) for record in split.records]
        scores = [
            _score(self.metric, answer, gold, record)
            for record, answer, gold in zip(split.records, answers.labels, golds, strict=True)
        ]
        return Result(
            task=f"{selection.dataset.name}_{selection.method.eval_view}",
            split=name,
            accuracy=Accuracy.of(scores),
            teacher=teacher_accuracy(split.records, self.metric),
            majority=self._majority(split) if final else None,
            predictions=self._predictions(params, split, answers, scores),
            identity=self.identity(name),
            max_decode_length=self.max_decode_length,
            truncated_answers=answers.truncated,
            metrics=extra.evaluate(registry.metric_fns(selection), golds, answers.labels),
            pace=answers.pace,
        )

    def _answers(self, params: dict, split: Split, with_confidence: bool) -> Answers:
        method, vocabulary = self._source.selection.method, self._source.vocabulary
        decode_args = (params, split.label_table, split.rows, self.max_decode_length)
        if with_confidence:
            return ConfidentDecoder(
                self._decoder, vocabulary, method.answer, self._choices(split)
            ).answer(*decode_args)
        ids = self._decoder.ids(*decode_args)
        labels = [method.answer(vocabulary.decode(row.tolist())) for row in ids]
        return Answers(labels, [{} for _ in labels], unended(ids), self._decoder.pace)

    def _choices(self, split: Split) -> ClosedSet:
        """The gold labels of a split where outputs are nothing but labels, and few."""
        if self._source.selection.method.answer is not methods.whole_output:
            return ClosedSet.none()
        labels = closed_set(record.label for record in split.records)
        try:
            return ClosedSet.of(labels, self._source.vocabulary)
        except UserError:  # a label that the vocabulary cannot write: the start reported it
            return ClosedSet.none()

    def _predictions(
        self, params: dict, split: Split, answers: Answers, scores: Sequence[metrics.Score]
    ) -> list[dict[str, Any]]:
        columns = (split.records, answers.labels, self._rationales(params, split), scores)
        return [
            _prediction(record, label, rationale, score, self.metric) | fields
            for record, label, rationale, score, fields in zip(
                *columns, answers.fields, strict=True
            )
        ]

    def _rationales(self, params: dict, split: Split) -> Sequence[str | None]:
        if split.rationale_table is None:
            return [None] * len(split.rows)
        length = self._config.task_feature_lengths["targets"]
        start_id = methods.start_id(methods.RATIONALE, self._config.shared_encoder)
        return self._decoder.decode(params, split.rationale_table, split.rows, length, start_id)

    def _majority(self, split: Split) -> Accuracy | None:
        return pipeline.majority_baseline(self._source, self._config, split)

    def split(self, name: str, with_rationales: bool = False) -> Split:
        """A split's records and tokens, prepared at the first call.

        Raises:
            UserError: missing, empty or broken data.
        """
        key = (name, with_rationales)
        if key not in self._splits:
            self._splits[key] = self._source.split(name, self._config, with_rationales)
        return self._splits[key]


def _score(metric: Metric, answer: str, gold: str, record: Record) -> metrics.Score:
    """`metrics.score`, with the record in messages."""
    return metrics.score(metric, answer, gold, f"record {record.id!r}")


def _prediction(
    record: Record, answer: str, rationale: str | None, score: metrics.Score, metric: Metric
) -> dict[str, Any]:
    teacher = record.llm_label
    return {
        "id": record.id,
        "input": record.input,
        "gold": record.label,
        "label": answer,
        "correct": score,
        "rationale": rationale,
        "teacher_label": teacher,
        "teacher_correct": None
        if teacher is None
        else _score(metric, teacher, record.label, record),
        "teacher_rationale": record.rationale,
    }


def teacher_accuracy(records: Sequence[Record], metric: Metric) -> Accuracy | None:
    """The teacher's labels against gold, unreadable ones counted as wrong; None without labels."""
    labelled = [record for record in records if record.llm_label is not None]
    if not labelled:
        return None
    return Accuracy.of(
        _score(metric, record.llm_label or "", record.label, record) for record in labelled
    )
