"""Votes: several readings of one question give one answer; filters answers."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from sbs_jax.datasets.records import Record
from sbs_jax.metrics import accuracy
from sbs_jax.teacher import answer_parser
from sbs_jax.teacher.answer_parser import Reading
from sbs_jax.teacher.prompts import Prompt


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The teacher's answer to one record, over all samples.

    Attributes:
        votes: samples that gave the label; agreement is their share of all samples.
        samples: samples answered (unreadable ones included); 0 where there is no answer yet.
        dropped: the filters that the answer did not pass.
        confidence: mean probability of the label's tokens over the samples that gave it, or None.
        more: further rationales for the label, each from another sample.
        outcome: how the completion of the label and the rationale was read.
    """

    record: Record
    rationale: str
    label: str
    votes: int
    samples: int
    dropped: tuple[str, ...] = ()
    confidence: float | None = None
    more: tuple[str, ...] = ()
    outcome: str = ""

    @property
    def agreement(self) -> float:
        return self.votes / self.samples if self.samples else 0.0

    @property
    def kept_rationale(self) -> str | None:
        """The rationale to train on, or None."""
        return None if self.dropped or not self.rationale.strip() else self.rationale

    @property
    def kept_rationales(self) -> tuple[str, ...]:
        """All rationales to train on where there are several, else none."""
        kept = self.kept_rationale
        return (kept, *self.more) if kept is not None and self.more else ()

    @property
    def kept_label(self) -> str | None:
        """The teacher's label; blank where it gave none, None where there is no answer to use.

        A filter of the rationale leaves the label alone, so that the teacher's accuracy stays
        that of all its answers; an agreement below the threshold is no label.
        """
        if not self.samples or {"agreement", "confidence"} & set(self.dropped):
            return None
        return self.label or " "

    def to_json(self) -> dict[str, Any]:
        sure = {} if self.confidence is None else {"confidence": round(self.confidence, 4)}
        several = {"rationales": list(self.kept_rationales)} if self.kept_rationales else {}
        return {
            "id": self.record.id,
            "rationale": self.kept_rationale,
            "label": self.kept_label,
            "agreement": round(self.agreement, 4),
            "votes": self.votes,
            "samples": self.samples,
            "outcome": self.outcome,
            "dropped": list(self.dropped),
            **sure,
            **several,
        }


def vote(
    metric: accuracy.Name,
    record: Record,
    readings: Sequence[Reading],
    confidences: Sequence[float | None] = (),
    rationales: int = 1,
) -> Answer:
    """Self-consistency (Wang et al. 2022): the label most samples give (ties: the first).

    Labels are compared by the dataset's metric, so that (3 + 4) and (4 + 3) vote together. The
    rationale is the shortest among those that support the label, read on the highest rung; the
    next ones follow it, up to `rationales` of them, none twice.
    """
    camps: list[list[int]] = []
    for index, reading in enumerate(readings):
        if not reading.has_label:
            continue
        for camp in camps:
            if accuracy.is_correct(metric, reading.label, readings[camp[0]].label):
                camp.append(index)
                break
        else:
            camps.append([index])
    if not camps:
        first = readings[0] if readings else Reading("", "", "")
        return Answer(record, first.rationale, "", 0, len(readings), outcome=first.outcome)
    winners = max(camps, key=len)
    best, *others = sorted((readings[index] for index in winners), key=_preference)
    distinct = dict.fromkeys(r.rationale for r in others if r.rationale.strip())
    distinct.pop(best.rationale, None)
    sure = [confidences[index] for index in winners if confidences]
    known = [value for value in sure if value is not None]
    return Answer(
        record,
        best.rationale,
        best.label,
        len(winners),
        len(readings),
        confidence=sum(known) / len(known) if known else None,
        more=tuple(distinct)[: rationales - 1],
        outcome=best.outcome,
    )


def _preference(reading: Reading) -> tuple[bool, int, int]:
    return (
        not reading.rationale.strip(),
        answer_parser.READ.index(reading.outcome),
        len(reading.rationale),
    )


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which answers to leave out of training; the defaults leave out none.

    Attributes:
        only_correct: the label must be the gold one.
        min_agreement: least share of the samples that gave the label.
        min_words, max_words: of the rationale.
        drop_leaks: the rationale must not give the label away as one ("the answer is", or the
            label's own word where labels come from a list); wanted when it becomes an input.
        drop_repeats: the same rationale for a second question.
        min_confidence: least probability of the label; an answer without one does not pass.
    """

    only_correct: bool = False
    min_agreement: float = 0.0
    min_words: int = 0
    max_words: int | None = None
    drop_leaks: bool = False
    drop_repeats: bool = False
    min_confidence: float = 0.0

    def apply(self, prompt: Prompt, answers: Iterable[Answer]) -> Iterable[Answer]:
        """The same answers in order, each with the names of the filters it did not pass."""
        seen: dict[str, str] = {}
        for answer in answers:
            if not answer.samples:
                yield answer
                continue
            dropped = self._dropped(prompt, answer)
            if self.drop_repeats and answer.rationale.strip():
                first_input = seen.setdefault(
                    answer.rationale.strip().casefold(), answer.record.input
                )
                dropped += ("repeat",) * (first_input != answer.record.input)
            alone = (dataclasses.replace(answer, rationale=text) for text in answer.more)
            more = tuple(each.rationale for each in alone if not self._dropped(prompt, each))
            yield dataclasses.replace(answer, dropped=dropped, more=more)

    def _dropped(self, prompt: Prompt, answer: Answer) -> tuple[str, ...]:
        words = len(answer.rationale.split())
        failed = {
            "gold": self.only_correct
            and not accuracy.is_correct(prompt.metric, answer.label, answer.record.label),
            "agreement": answer.agreement < self.min_agreement,
            "confidence": (answer.confidence or 0.0) < self.min_confidence,
            "short": words < self.min_words,
            "long": self.max_words is not None and words > self.max_words,
            "leak": self.drop_leaks and leaks(prompt, answer),
        }
        return tuple(name for name, drop in failed.items() if drop)


def leaks(prompt: Prompt, answer: Answer) -> bool:
    """Whether the rationale states the label as the answer."""
    rationale = answer.rationale.casefold()
    if "answer is" in rationale:
        return True
    words = rationale.replace(".", " ").replace(",", " ").split()
    return prompt.answer == "labels" and answer.label.casefold() in words
