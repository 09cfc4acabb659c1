"""How sure a student is of each answer: its share among a closed set of labels, or its probability.

Answers are the greedy outputs, with or without confidence.
"""

import collections
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sbs_jax.errors import UserError
from sbs_jax.evaluation.decoder import Decoder, unended
from sbs_jax.input_pipeline import batches, token_cache
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.models import label_trie
from sbs_jax.models.label_trie import LabelTrie

CONFIDENCE, PROBABILITIES = "confidence", "label_probabilities"

# Labels of a run are taken for a closed set if there are few, and each is met again and again.
_MAX_LABELS = 50
_MIN_REPEATS = 3.0


def closed_set(golds: Iterable[str]) -> list[str]:
    """The distinct gold labels, if a student can be said to choose from them.

    Empty for open answers: more than 50 labels, or fewer than three questions per label.
    """
    counts = collections.Counter(golds)
    if not 2 <= len(counts) <= _MAX_LABELS or counts.total() < _MIN_REPEATS * len(counts):
        return []
    return sorted(counts)


def among(
    labels: Sequence[str], scores: Sequence[float], answer: str, answer_score: float | None
) -> dict[str, object]:
    """The fields of an answer from a closed set.

    Args:
        labels: of the set.
        scores: natural logarithm of each label's probability among all outputs.
        answer: the student's label.
        answer_score: the same of the answer, where its output is none of theirs; it then competes
            with them.

    Returns:
        ``confidence``, the answer's share of the probability, 0 for an answer that is none of the
        labels; and ``label_probabilities``, the labels' shares.
    """
    logits = np.array([*scores, *([] if answer_score is None else [answer_score])], np.float64)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    named = {label: round(float(p), 6) for label, p in zip(labels, shares, strict=False)}
    confidence = shares[-1] if answer_score is not None else shares[labels.index(answer)]
    sure = round(float(confidence), 6) if answer in labels else 0.0
    return {CONFIDENCE: sure, PROBABILITIES: named}


def of_open_answer(score: float) -> dict[str, object]:
    """The field of an open answer: the probability of exactly this output, its end included."""
    return {CONFIDENCE: round(math.exp(score), 6)}


class ClosedSet(NamedTuple):
    """Labels to choose from, as the vocabulary writes them; none for open answers."""

    labels: list[str]
    trie: LabelTrie | None
    longest: int

    @classmethod
    def none(cls) -> "ClosedSet":
        """Of open answers."""
        return cls([], None, 0)

    @classmethod
    def of(cls, labels: Sequence[str], vocabulary: Vocabulary) -> "ClosedSet":
        """Raises UserError for a label that the vocabulary cannot write."""
        if not labels:
            return cls.none()
        # An output ends at its first EOS, which a label may hold inside: "yes</s>no".
        sequences = [
            ids[: ids.index(vocabulary.eos_id) + 1]
            for ids in token_cache.encode_with_eos(vocabulary, list(labels))
        ]
        for label, ids in zip(labels, sequences, strict=True):
            if vocabulary.unk_id in ids or not vocabulary.decode(ids):
                raise UserError(
                    f"label {label!r}: the run's vocabulary cannot write it (tokens "
                    f"{' '.join(vocabulary.pieces(ids))}); give --labels without it"
                )
        written = {tuple(ids): vocabulary.decode(ids) for ids in sequences}
        trie = label_trie.build([list(ids) for ids in written])
        return cls(list(written.values()), trie, max(map(len, written)))


class Answers(NamedTuple):
    """What a student said.

    Attributes:
        labels: of every question.
        fields: ``confidence`` and, from a closed set, ``label_probabilities`` of each.
        truncated: answers that reached the decoding length before they ended.
        pace: seconds per question (`Decoder.pace`).
        outside: answers that are none of the labels of a closed set.
    """

    labels: list[str]
    fields: list[dict[str, object]]
    truncated: int
    pace: float | None
    outside: int = 0


class ConfidentDecoder:
    """Greedy labels with their confidence.

    Args:
        read: the label of an output.
        choices: that every output of this student ends in; empty for open answers.
    """

    def __init__(
        self,
        decoder: Decoder,
        vocabulary: Vocabulary,
        read: Callable[[str], str],
        choices: ClosedSet,
    ) -> None:
        self._decoder, self._vocabulary = decoder, vocabulary
        self._read, self._choices = read, choices

    def answer(
        self, params: dict, table: batches.Table, rows: np.ndarray, max_decode_length: int
    ) -> Answers:
        """Greedy outputs with their probabilities.

        One pass over the trie gives both for a closed set; only a question whose greedy output
        is none of the labels is decoded, as every question of an open set is.
        """
        n, (names, trie, longest) = len(rows), self._choices
        closed = trie is not None and longest <= max_decode_length and n > 0
        scores, chosen, pace = np.zeros((n, 0)), np.full(n, -1), None
        if closed and trie is not None:
            scores, chosen = self._decoder.label_scores(params, table, rows, trie)
            pace = self._decoder.pace
        labels = [names[c] if c >= 0 else "" for c in chosen.tolist()]
        fields = [
            among(names, s, label, None) if c >= 0 else {}
            for s, c, label in zip(scores.tolist(), chosen.tolist(), labels, strict=True)
        ]
        others = np.flatnonzero(chosen < 0)
        if not len(others):
            return Answers(labels, fields, 0, pace)
        ids, totals = self._decoder.scored_ids(params, table, rows[others], max_decode_length)
        for place, output, total in zip(
            others.tolist(), ids.tolist(), totals.tolist(), strict=True
        ):
            labels[place] = self._read(self._vocabulary.decode(output))
            fields[place] = (
                among(names, scores[place].tolist(), labels[place], total)
                if closed
                else of_open_answer(total)
            )
        outside = sum(label not in names for label in labels) if closed else 0
        pace = pace if closed else self._decoder.pace
        return Answers(labels, fields, unended(ids), pace, outside)
