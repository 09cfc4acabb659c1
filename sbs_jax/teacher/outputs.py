"""The files a run leaves: records to train on, rationales by id, and what could not be read.

In the folder, beside the journal:

* ``SPLIT.jsonl``: every record of the input SPLIT.jsonl with the teacher's fields, for `sbs train`;
* ``rationales.jsonl``: one line per record (id, rationale, label, agreement, ...), for joining to
  data held elsewhere as ``annotations.jsonl``;
* ``parse_report.json``: counts of every outcome, and samples of each kind of failure;
* ``report_card.json``: the teacher against gold.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.teacher import answer_parser, thoughts
from sbs_jax.teacher.answer_parser import Reading, Strictness
from sbs_jax.teacher.journal import Journal, Row
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.replies import finish_of
from sbs_jax.teacher.report_card import ReportCard
from sbs_jax.teacher.requests import answer_key
from sbs_jax.teacher.voting import Answer, Filters, vote
from sbs_jax.utils.files import atomic_writer

RATIONALES = "rationales.jsonl"
PARSE_REPORT = "parse_report.json"
REPORT_CARD = "report_card.json"

_SAMPLES = 5
_SAMPLE_CHARACTERS = 500

Inputs = Mapping[str, Callable[[], Iterable[Record]]]
ShaOf = Callable[[Record], str]


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """One line of the journal, as far as it is read."""

    text: str
    finish_reason: str | None
    thoughts: str
    refused: bool

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
        )


@dataclasses.dataclass
class ParseReport:
    """Counts over all completions read, and a few examples of each outcome but ``exact``.

    Attributes:
        unreadable_lines: lines of the journal that hold no answer (a damaged disk, a torn copy).
        sampled: records with several completions; `identical_samples` of them all the same.
        thoughts: completions with thoughts, in the text or apart from it.
        without_rationale: completions with a label and no rationale.
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
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    samples: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)

    def count(self, record: Record, completion: Completion, read: Reading) -> None:
        """Counts one completion."""
        self.completions += 1
        self.outcomes[read.outcome] += 1
        self.finish_reasons[completion.finish_reason or "unknown"] += 1
        self.thoughts += bool(completion.thoughts)
        self.without_rationale += read.found and not read.rationale.strip()
        self.contradictions += read.contradiction
        if read.outcome != "exact":
            examples = self.samples.setdefault(read.outcome, [])
            if len(examples) < _SAMPLES:
                text = completion.text[:_SAMPLE_CHARACTERS]
                examples.append({"id": record.id, "text": text})

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {
            name: dict(getattr(self, name).most_common())
            for name in ("outcomes", "finish_reasons", "dropped")
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


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads a journal's answers to records.

    Attributes:
        sha_of: the key of a record's request, without the number of the sample.
    """

    prompt: Prompt
    journal: Journal
    sha_of: ShaOf
    n: int = 1
    strictness: Strictness = "tolerant"

    def answers(self, records: Iterable[Record], report: ParseReport) -> Iterator[Answer]:
        """One per record, in order; counts into `report`."""
        for record in records:
            completions = list(self._completions(record))
            readings = []
            for completion in completions:
                reading = self._read(record, completion)
                report.count(record, completion, reading)
                readings.append(reading)
            report.records += 1
            report.unanswered += not completions
            report.sampled += len(completions) > 1
            report.identical_samples += len(completions) > 1 and len(set(completions)) == 1
            yield vote(self.prompt.metric, record, readings)

    def _read(self, record: Record, completion: Completion) -> Reading:
        if completion.refused:
            return answer_parser.refused()
        return answer_parser.read(
            self.prompt, record, completion.text, completion.finish_reason, self.strictness
        )

    def _completions(self, record: Record) -> Iterator[Completion]:
        """Every sample in the journal."""
        sha = self.sha_of(record)
        for sample in range(self.n):
            row = self.journal.get(answer_key(sha, sample))
            if row is not None:
                yield Completion.of(row)


def write(
    folder: Path, inputs: Inputs, reader: Reader, filters: Filters
) -> tuple[ParseReport, dict[str, ReportCard]]:
    """Writes all output files, each whole or not at all; returns what they report, per split."""
    report, cards = ParseReport(reader.journal.unreadable), {}
    with atomic_writer(folder / RATIONALES) as rationales:
        for split, records in inputs.items():
            cards[split] = card = ReportCard(reader.prompt)
            answered = filters.apply(reader.prompt, reader.answers(records(), report))
            write_jsonl(
                folder / f"{split}.jsonl", _annotated(answered, split, rationales, card, report)
            )
    _write_json(folder / PARSE_REPORT, report.to_json())
    _write_json(folder / REPORT_CARD, {split: card.to_json() for split, card in cards.items()})
    return report, cards


def _annotated(
    answered: Iterable[Answer],
    split: str,
    rationales: TextIO,
    card: ReportCard,
    report: ParseReport,
) -> Iterator[Record]:
    for answer in answered:
        card.add(answer)
        report.dropped.update(answer.dropped)
        line = {"split": split, **answer.to_json()}
        rationales.write(json.dumps(line, ensure_ascii=False) + "\n")
        yield dataclasses.replace(
            answer.record, rationale=answer.kept_rationale, llm_label=answer.kept_label
        )


def _write_json(path: Path, value: Any) -> None:
    with atomic_writer(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
