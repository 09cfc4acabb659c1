"""Labels and rationales of new questions from a trained student."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from sbs_jax.datasets import methods
from sbs_jax.datasets.methods import View
from sbs_jax.datasets.records import Record
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.evaluation.confidence import ClosedSet, ConfidentDecoder
from sbs_jax.evaluation.decoder import Decoder, unended
from sbs_jax.inference.student import Asking, Student
from sbs_jax.input_pipeline import token_cache, unknown_ids
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.models.decoding import PAD_ID


class Questions:
    """The tokens of questions, in memory: a `batches.Table` without targets.

    Attributes:
        too_long: whether each question is longer than the run's inputs.
        unknown: number of questions that are largely unknown to the vocabulary.
    """

    def __init__(
        self, records: Sequence[Record], view: View, asking: Asking, vocabulary: Vocabulary
    ) -> None:
        length = asking.input_length
        texts = [view.texts(record, asking.prefixes)[0] for record in records]
        sequences = token_cache.encode_with_eos(vocabulary, texts)
        prefix = unknown_ids.prefix_ids(vocabulary, view.prefix_text(asking.prefixes))
        own = [unknown_ids.without_prefix(np.array(ids), prefix) for ids in sequences]
        self.unknown = sum(
            unknown_ids.fraction(vocabulary, [ids]) > asking.max_unknown for ids in own
        )
        self.too_long = [len(ids) > length for ids in sequences]
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


@dataclasses.dataclass
class Counts:
    """Of the questions asked so far.

    Attributes:
        questions: all.
        truncated: longer than the run's inputs.
        unexplained: without the teacher's rationale, which the student reads.
        unknown: a larger fraction of their ids is unknown than the run allowed (`max_unknown`).
        truncated_labels, truncated_rationales: answers that reached the decoding length.
        outside: answers that are none of the labels of a closed set.
    """

    questions: int = 0
    truncated: int = 0
    unexplained: int = 0
    unknown: int = 0
    truncated_labels: int = 0
    truncated_rationales: int = 0
    outside: int = 0

    def lines(self, asking: Asking) -> Iterator[str]:
        """A line each for what is not 0."""
        if self.truncated:
            yield f"{self.truncated} questions were longer than the run's inputs: truncated"
        if self.unexplained:
            yield (
                f"warning: {self.unexplained} of {self.questions} questions have no rationale, "
                "which the student was trained to read"
            )
        if self.unknown:
            yield (
                f"warning: in {self.unknown} of {self.questions} questions more than "
                f"{asking.max_unknown:.0%} of the ids are unknown to the student's vocabulary: it "
                "does not read that text"
            )
        if self.outside:
            yield (
                f"warning: {self.outside} of {self.questions} answers are none of the labels to "
                "choose from: their confidence is 0 (--labels names others)"
            )
        for name, count, length in (
            ("labels", self.truncated_labels, asking.label_length),
            ("rationales", self.truncated_rationales, asking.rationale_length),
        ):
            if count:
                yield f"{count} of {self.questions} {name} were truncated after {length} tokens"


class Predictor:
    """Asks a student as its run trained it: prefixes, vocabulary, lengths, method.

    Args:
        student: of a run (`student.find_run`).
        batch_size: questions decoded at a time; None takes the run's.
        labels: the closed set whose probabilities are computed with `confidence`; empty for open
            answers.

    Attributes:
        explains: whether the student was trained to give rationales.
        counts: what a user should know of the questions and answers so far.
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
        self.explains = self._asking.explains
        self.counts = Counts()
        method = self._asking.method
        # Where an output is more than a label, its labels are no closed set of outputs.
        closed = labels if method.answer is methods.whole_output else ()
        choices = ClosedSet.of(closed, self._vocabulary)
        self._confident = ConfidentDecoder(self._decoder, self._vocabulary, method.answer, choices)

    def remarks(self) -> Iterator[str]:
        """A line each on what the questions and answers so far lost."""
        return self.counts.lines(self._asking)

    def answer(
        self, records: Sequence[Record], with_rationales: bool, confidence: bool = False
    ) -> list[dict[str, object]]:
        """What the student answers to every record; its gold label is ignored.

        {"label": .., "rationale"?: .., "confidence"?: .., "label_probabilities"?: ..}
        """
        return self._answer(records, with_rationales, confidence)[0]

    def answer_and_mark(
        self, records: Sequence[Record], with_rationales: bool
    ) -> list[dict[str, object]]:
        """As `answer`; ``truncated`` says whether a question is longer than the run's inputs."""
        answers, questions = self._answer(records, with_rationales, confidence=False)
        return [
            answer | {"truncated": cut}
            for answer, cut in zip(answers, questions.too_long, strict=True)
        ]

    def _answer(
        self, records: Sequence[Record], with_rationales: bool, confidence: bool
    ) -> tuple[list[dict[str, object]], Questions]:
        """(Answers, the questions as the student read them for its labels)."""
        asking, method = self._asking, self._asking.method
        questions = self._questions(records, method.eval_view)
        self.counts.questions += questions.n
        self.counts.truncated += sum(questions.too_long)
        self.counts.unknown += questions.unknown
        if methods.VIEWS[method.eval_view].reads_rationale:
            self.counts.unexplained += sum(not methods.present(r.rationale) for r in records)
        answers: list[dict[str, object]]
        if confidence:
            answers = self._with_confidence(questions)
        else:
            outputs, unended = self._decode(questions, asking.label_length, PAD_ID)
            self.counts.truncated_labels += unended
            answers = [{"label": method.answer(output)} for output in outputs]
        if with_rationales:
            assert method.rationale_view is not None
            rationales, unended = self._decode(
                self._questions(records, method.rationale_view),
                asking.rationale_length,
                asking.rationale_start,
            )
            self.counts.truncated_rationales += unended
            for answer, rationale in zip(answers, rationales, strict=True):
                answer["rationale"] = rationale
        return answers, questions

    def _with_confidence(self, questions: Questions) -> list[dict[str, object]]:
        """Labels with the probability of each."""
        rows = np.arange(questions.n)
        answers = self._confident.answer(self._params, questions, rows, self._asking.label_length)
        self.counts.truncated_labels += answers.truncated
        self.counts.outside += answers.outside
        return [
            {"label": label, **fields}
            for label, fields in zip(answers.labels, answers.fields, strict=True)
        ]

    def _questions(self, records: Sequence[Record], view: str) -> Questions:
        return Questions(records, methods.VIEWS[view], self._asking, self._vocabulary)

    def _decode(
        self, questions: Questions, max_decode_length: int, start_id: int
    ) -> tuple[list[str], int]:
        """(Outputs, how many of them did not end)."""
        rows = np.arange(questions.n)
        outputs = self._decoder.ids(self._params, questions, rows, max_decode_length, start_id)
        return [self._vocabulary.decode(ids.tolist()) for ids in outputs], unended(outputs)
