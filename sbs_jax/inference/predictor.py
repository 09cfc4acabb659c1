"""Labels and rationales of new questions from a trained student."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from sbs_jax.datasets import methods
from sbs_jax.datasets.methods import View
from sbs_jax.datasets.records import Record
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.evaluation.decoder import Decoder
from sbs_jax.inference.confidence import among, of_open_answer
from sbs_jax.inference.student import Asking, Student
from sbs_jax.input_pipeline import token_cache
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.models import label_trie
from sbs_jax.models.label_trie import LabelTrie


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
        self._labels, self._trie = self._closed_set(labels)

    def _closed_set(self, labels: Sequence[str]) -> tuple[list[str], LabelTrie | None]:
        """The labels as the student writes them, and their trie.

        None where there are none, or where an output is more than a label. Raises
        UserError for a label that the vocabulary cannot write.
        """
        if not labels or self._asking.method.answer is not methods.whole_output:
            return [], None
        sequences = token_cache.encode_with_eos(self._vocabulary, list(labels))
        for label, ids in zip(labels, sequences, strict=True):
            if self._vocabulary.unk_id in ids or not self._vocabulary.decode(ids):
                raise UserError(
                    f"label {label!r}: the run's vocabulary cannot write it (tokens "
                    f"{' '.join(self._vocabulary.pieces(ids))}); give --labels without it"
                )
        written = {tuple(ids): self._vocabulary.decode(ids) for ids in sequences}
        return list(written.values()), label_trie.build([list(ids) for ids in written])

    def answer(
        self, records: Sequence[Record], with_rationales: bool, confidence: bool = False
    ) -> list[dict[str, object]]:
        """{"label": .., "rationale"?: .., "confidence"?: .., "label_probabilities"?: ..} of every
        record; its gold label is not looked at."""
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
        """Labels with the probability of each.

        One pass over the trie gives both for a closed set; only a question whose greedy output is
        none of the labels is decoded, as every question of an open set is.
        """
        rows = np.arange(questions.n)
        scores, chosen = np.zeros((questions.n, 0)), np.full(questions.n, -1)
        if self._trie is not None and questions.n:
            scores, chosen = self._decoder.label_scores(self._params, questions, rows, self._trie)
        answers: list[dict[str, object]] = [
            {"label": self._labels[c], **among(self._labels, s, self._labels[c], None)}
            if c >= 0
            else {}
            for s, c in zip(scores.tolist(), chosen.tolist(), strict=True)
        ]
        others = rows[chosen < 0]
        if len(others):
            ids, totals = self._decoder.scored_ids(
                self._params, questions, others, self._asking.label_length
            )
            for row, output, total in zip(
                others.tolist(), ids.tolist(), totals.tolist(), strict=True
            ):
                label = self._asking.method.answer(self._vocabulary.decode(output))
                closed = self._trie is not None
                extra = (
                    among(self._labels, scores[row].tolist(), label, total)
                    if closed
                    else of_open_answer(total)
                )
                answers[row] = {"label": label, **extra}
        return answers

    def _questions(self, records: Sequence[Record], view: str) -> Questions:
        return Questions(records, methods.VIEWS[view], self._asking, self._vocabulary)

    def _decode(self, questions: Questions, max_decode_length: int) -> list[str]:
        rows = np.arange(questions.n)
        return self._decoder.decode(self._params, questions, rows, max_decode_length)
