"""Checks that a student can be right: encodes gold labels, decodes them, and scores the result.

A student writes ids, and what it says is their text. T5's vocabularies fold spaces and line ends,
normalise characters and have no id for others, so a label may never come back as it was. The
original compares the answer with the label after the same round trip (its metrics.py decodes the
gold ids too), and so do we.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping

from sbs_jax.errors import UserError
from sbs_jax.input_pipeline.vocabularies import Vocabulary, encode_text
from sbs_jax.metrics.accuracy import Metric, is_correct, metric_name

_SHOWN = 5  # labels a line names
_MOST_PIECES = 12


def written(vocabulary: Vocabulary, text: str) -> str:
    """Encodes and decodes a text: the form in which a student can write it."""
    return vocabulary.decode(encode_text(vocabulary, text))


@dataclasses.dataclass(frozen=True)
class LabelReport:
    """Gold labels that a vocabulary changes, and those that the metric never counts as right.

    Attributes:
        dataset: its name.
        vocabulary: of the run.
        metric: name.
        labels: distinct gold labels -> records.
        changed: gold label -> what the vocabulary writes, where they differ.
        never_right: labels that are not right even against themselves.
    """

    dataset: str
    vocabulary: Vocabulary
    metric: str
    labels: Mapping[str, int]
    changed: Mapping[str, str]
    never_right: tuple[str, ...]

    @property
    def n(self) -> int:
        """Number of records checked."""
        return sum(self.labels.values())

    def lines(self) -> Iterator[str]:
        """At most four warnings, each of one line."""
        blank = sum(n for label, n in self.labels.items() if not label.strip())
        if blank:
            yield (
                f"warning: {self.dataset}: {blank} of {self.n} records have an empty gold label; "
                "only an empty answer can be right"
            )
        if self.changed:
            yield (
                f"warning: {self.dataset}: {self._count(self.changed)} change in VOCABULARY = "
                f"{self.vocabulary.spec!r}: {self._named(self.changed)}; answers are compared with "
                "what it writes"
            )
        if merged := self._merged():
            yield f"warning: {self.dataset}: labels that VOCABULARY writes alike: {merged}"
        if self.never_right:
            named = "; ".join(
                f"{label!r} ({self.labels[label]} records)" for label in self.never_right[:_SHOWN]
            )
            yield (
                f"warning: {self.dataset}: {self._count(self.never_right)} can never be right by "
                f"metric {self.metric}, which does not accept them against themselves: {named}"
                f"{_more(self.never_right)}"
            )

    def _count(self, labels: Mapping[str, str] | tuple[str, ...]) -> str:
        records = sum(self.labels[label] for label in labels)
        return f"{len(labels)} of {len(self.labels)} gold labels ({records} of {self.n} records)"

    def _named(self, labels: Mapping[str, str]) -> str:
        parts = [
            f"{label!r} -> {text!r} (pieces {self._pieces(label)}; {self.labels[label]} records)"
            for label, text in list(labels.items())[:_SHOWN]
        ]
        return "; ".join(parts) + _more(labels)

    def _pieces(self, label: str) -> str:
        ids = encode_text(self.vocabulary, label)
        more = " ..." if len(ids) > _MOST_PIECES else ""
        return " ".join(self.vocabulary.pieces(ids[:_MOST_PIECES])) + more

    def _merged(self) -> str:
        """Labels that differ by more than spaces and are written alike."""
        by_text: dict[str, list[str]] = {}
        for label in self.labels:
            by_text.setdefault(self.changed.get(label, label), []).append(label)
        groups = [
            labels for labels in by_text.values() if len({" ".join(x.split()) for x in labels}) > 1
        ]
        named = "; ".join(" and ".join(map(repr, labels[:_SHOWN])) for labels in groups[:_SHOWN])
        return named + (_more(groups) if groups else "")


def _more(items: Mapping | tuple | list) -> str:
    return f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""


def check(
    labels: Mapping[str, Counter[str]], metric: Metric, vocabulary: Vocabulary, dataset: str
) -> LabelReport:
    """Sends every distinct gold label through the vocabulary, and scores it against itself.

    Args:
        labels: split -> counts of its gold labels.
        metric: of the dataset.
        vocabulary: of the run.
        dataset: its name, for messages.

    Raises:
        UserError: a label of which the vocabulary can write nothing, so that every empty answer
            would be right; or the metric fails on a label.
    """
    total: Counter[str] = sum(labels.values(), Counter())
    texts = {label: written(vocabulary, label) for label in total}
    for label, text in texts.items():
        if label.strip() and not text.strip():
            raise UserError(
                f"{dataset}: VOCABULARY = {vocabulary.spec!r} can write nothing of the gold label "
                f"{label!r} ({total[label]} records); choose another vocabulary"
            )
    return LabelReport(
        dataset=dataset,
        vocabulary=vocabulary,
        metric=metric_name(metric),
        labels=total,
        changed={label: text for label, text in texts.items() if label != text},
        never_right=tuple(
            label
            for label, text in texts.items()
            if not is_correct(metric, text, text, _place(dataset, label, labels))
        ),
    )


def _place(dataset: str, label: str, labels: Mapping[str, Counter[str]]) -> str:
    split = next(name for name, counts in labels.items() if label in counts)
    return f"{dataset}/{split}: record with gold label {label[:60]!r}"
