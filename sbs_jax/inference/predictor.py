"""Labels and rationales of new questions from a trained student."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from sbs_jax.datasets import methods
from sbs_jax.datasets.methods import View
from sbs_jax.datasets.records import Record
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.evaluation.confidence import ClosedSet, ConfidentDecoder
from sbs_jax.evaluation.decoder import Decoder
from sbs_jax.inference.student import Asking, Student
from sbs_jax.input_pipeline import token_cache
from sbs_jax.input_pipeline.vocabularies import Vocabulary


class Questions:
    """The tokens of questions, in memory: a `batches.Table` without targets.

    Attributes:
        truncated: number of questions longer than `length` tokens.
    """

    def __init__(
        self, records: Sequence[Record], view: View, asking: Asking, vocabulary: Vocabulary
    ) -> None:
        length = asking.input_length
        texts = [view.texts(record, asking.prefixes)[0] for record in records]
        sequences = token_cache.encode_with_eos(vocabulary, texts)
        self.truncated = sum(len(ids) > length for ids in sequences)
        self._inputs = [np.array(token_cache.truncate(ids, length), np.int32) for ids in sequences]
        self.n = len(records)
        self.ids: Sequence[str] = [record.id for record in records]
        self.input_lengths = np.array([len(ids) for ids in self._inputs], np.int32)
        self.target_lengths = np.zeros(self.n, np.int32)

    def inputs(self, row: int) -> Int[np.ndarray, " length"]:
        """Token ids of one question."""
        return self._inputs[row]

    def targets(self, row: int) -> Int[np.ndarray, " length"]:
        """No ids: a question has no answer yet."""
        return np.zeros(0, np.int32)


class Predictor:
    """Asks a student as its run trained it: prefixes, vocabulary, lengths, method.

    Args:
        student: of a run (`student.find_run`).
        batch_size: questions decoded at a time; None takes the run's.
        labels: the closed set whose probabilities are computed with `confidence`; empty for open
            answers.

    Attributes:
        explains: whether the student was trained to give rationales.
        truncated: number of questions so far that were longer than the run's inputs.
    """

    def __init__(
        self, student: Student, batch_size: int | None = None, labels: Sequence[str] = ()
    ) -> None:
        assert student.run is not None
        partitioner = Partitioner()
        self._asking = Asking.of(student.run)
        self._vocabulary = student.vocabulary
        self._params = student.params(partitioner)
        self.batch_size = batch_size or student.run.eval_batch_size
        self._decoder = Decoder(student.config, partitioner, self._vocabulary, self.batch_size)
        self.explains = self._asking.rationale_prefix is not None
        self.truncated = 0
        method = self._asking.method
        # Where an output is more than a label, its labels are no closed set of outputs.
        closed = labels if method.answer is methods.whole_output else ()
        choices = ClosedSet.of(closed, self._vocabulary)
        self._confident = ConfidentDecoder(self._decoder, self._vocabulary, method.answer, choices)

    def answer(
        self, records: Sequence[Record], with_rationales: bool, confidence: bool = False
    ) -> list[dict[str, object]]:
        """What the student answers to every record; its gold label is not looked at.

        {"label": .., "rationale"?: .., "confidence"?: .., "label_probabilities"?: ..}
        """
        asking, method = self._asking, self._asking.method
        questions = self._questions(records, method.eval_view)
        self.truncated += questions.truncated
        answers: list[dict[str, object]]
        if confidence:
            answers = self._with_confidence(questions)
        else:
            outputs = self._decode(questions, asking.label_length)
            answers = [{"label": method.answer(output)} for output in outputs]
        if with_rationales:
            assert method.rationale_view is not None
            questions = self._questions(records, method.rationale_view)
            rationales = self._decode(questions, asking.rationale_length)
            for answer, rationale in zip(answers, rationales, strict=True):
                answer["rationale"] = rationale
        return answers

    def _with_confidence(self, questions: Questions) -> list[dict[str, object]]:
        """Labels with the probability of each."""
        rows = np.arange(questions.n)
        answers = self._confident.answer(self._params, questions, rows, self._asking.label_length)
        return [
            {"label": label, **fields}
            for label, fields in zip(answers.labels, answers.fields, strict=True)
        ]

    def _questions(self, records: Sequence[Record], view: str) -> Questions:
        return Questions(records, methods.VIEWS[view], self._asking, self._vocabulary)

    def _decode(self, questions: Questions, max_decode_length: int) -> list[str]:
        rows = np.arange(questions.n)
        return self._decoder.decode(self._params, questions, rows, max_decode_length)
