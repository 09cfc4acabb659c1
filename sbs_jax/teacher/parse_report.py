"""Counts readable and unreadable completions for parse_report.json."""

import collections
import dataclasses
from typing import Any

from sbs_jax.datasets.records import Record
from sbs_jax.teacher import answer_parser, confidence, thoughts
from sbs_jax.teacher.answer_parser import Reading
from sbs_jax.teacher.journal import Row
from sbs_jax.teacher.replies import finish_of

_SAMPLES = 5
_SAMPLE_CHARACTERS = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """The fields read from one line of the journal."""

    text: str
    finish_reason: str | None
    thoughts: str
    refused: bool
    tokens: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of(cls, row: Row) -> "Completion":
        # A model may emit half a surrogate pair, which no UTF-8 file can hold.
        text = row["text"].encode("utf-8", "replace").decode()
        apart = row.get("thoughts")
        aloud, answer = thoughts.split(text)
        return cls(
            text=text,
            finish_reason=finish_of(row.get("finish_reason")),
            thoughts=apart if isinstance(apart, str) and apart else aloud,
            refused=bool(row.get("refusal")) and not answer,
            tokens=tuple(confidence.tokens_of(row.get("logprobs"))),
        )


@dataclasses.dataclass
class ParseReport:
    """Counts over all completions read, and a few examples of each outcome but ``exact``.

    Attributes:
        unreadable_lines: lines of the journal that hold no answer (a damaged disk, a torn copy).
        sampled: records with several completions; `identical_samples` of them all the same.
        thoughts: completions with thoughts, in the text or apart from it.
        without_rationale: completions with a label and no rationale.
        explained: rationales of wrong answers that a second pass brought, by pass.
        contradictions: answers with the letter of one choice and the text of another.
    """

    unreadable_lines: int = 0
    records: int = 0
    unanswered: int = 0
    completions: int = 0
    sampled: int = 0
    identical_samples: int = 0
    thoughts: int = 0
    without_rationale: int = 0
    contradictions: int = 0
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    finish_reasons: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    explained: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    samples: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)

    def count(self, record: Record, completion: Completion, read: Reading) -> None:
        """Counts one completion."""
        self.completions += 1
        self.outcomes[read.outcome] += 1
        self.finish_reasons[completion.finish_reason or "unknown"] += 1
        self.thoughts += bool(completion.thoughts)
        self.without_rationale += read.has_label and not read.rationale.strip()
        self.contradictions += read.contradiction
        if read.outcome != "exact":
            examples = self.samples.setdefault(read.outcome, [])
            if len(examples) < _SAMPLES:
                text = completion.text[:_SAMPLE_CHARACTERS]
                examples.append({"id": record.id, "text": text})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {
            name: dict(getattr(self, name).most_common())
            for name in ("outcomes", "finish_reasons", "explained", "dropped")
        }

    def __str__(self) -> str:
        lines = [f"{self.completions} completions read: {_counts(self.outcomes) or 'none'}"]
        if self.thoughts:
            lines.append(f"{self.thoughts} completions hold thoughts, which are left out")
        if self.without_rationale:
            lines.append(f"{self.without_rationale} answers have a label and no rationale")
        if self.contradictions:
            lines.append(
                f"{self.contradictions} answers name the letter of one choice and the text of "
                "another; the text counts"
            )
        if self.dropped:
            lines.append(f"left out by filters: {_counts(self.dropped)}")
        if self.explained:
            lines.append(
                f"wrong answers explained by a second pass: {_counts(self.explained)}; "
                "the accuracy is that of the first answers"
            )
        if self.unreadable_lines:
            lines.append(f"warning: {self.unreadable_lines} unreadable journal lines were skipped")
        if self.unanswered:
            lines.append(f"{self.unanswered} of {self.records} records have no answer yet")
        return "\n".join(lines + self._warnings())

    def _warnings(self) -> list[str]:
        lines = []
        if self.identical_samples and self.identical_samples == self.sampled:
            lines.append(
                "warning: the samples of every record are identical: the server seems to ignore "
                "temperature, so their agreement means nothing"
            )
        lost = sum(self.outcomes[name] for name in answer_parser.UNREAD)
        if lost * 2 > self.completions:
            advice = "look at the samples in parse_report.json"
            if self.outcomes["cut_off"] * 2 > lost:
                advice = "most are cut off: raise --max_tokens"
            lines.append(
                f"warning: {lost} of {self.completions} completions hold no answer; {advice}"
            )
        return lines


def _counts(counter: collections.Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())
