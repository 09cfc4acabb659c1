"""The files a run leaves: records to train on, rationales by id, and what could not be read.

In the folder, beside the journal:

* ``SPLIT.jsonl``: every record of the input SPLIT.jsonl with the teacher's fields, for `sbs train`;
* ``rationales.jsonl``: one line per record (id, rationale, label, agreement, ...), for joining to
  data held elsewhere as ``annotations.jsonl``;
* ``parse_report.json``: counts of every outcome, and samples of each kind of failure;
* ``report_card.json``: the teacher against gold.
"""

import collections
import contextlib
import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.teacher import answer_parser
from sbs_jax.teacher.answer_parser import Reading, Strictness
from sbs_jax.teacher.journal import Journal
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.report_card import ReportCard
from sbs_jax.teacher.requests import answer_key
from sbs_jax.teacher.voting import Answer, Filters, vote

RATIONALES = "rationales.jsonl"
PARSE_REPORT = "parse_report.json"
REPORT_CARD = "report_card.json"

_SAMPLES = 5
_SAMPLE_CHARACTERS = 500

Inputs = Mapping[str, Callable[[], Iterable[Record]]]
ShaOf = Callable[[Record], str]


@dataclasses.dataclass
class ParseReport:
    """Counts over all completions read, and a few examples of each outcome but ``exact``.

    Attributes:
        unreadable_lines: lines of the journal that hold no answer (a damaged disk, a torn copy).
        sampled: records with several completions; `identical_samples` of them all the same.
    """

    unreadable_lines: int = 0
    records: int = 0
    unanswered: int = 0
    completions: int = 0
    sampled: int = 0
    identical_samples: int = 0
    outcomes: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    finish_reasons: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )
    dropped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    samples: dict[str, list[dict[str, str]]] = dataclasses.field(default_factory=dict)

    def count(self, record: Record, text: str, finish_reason: str | None, read: Reading) -> None:
        """Counts one completion."""
        self.completions += 1
        self.outcomes[read.outcome] += 1
        self.finish_reasons[finish_reason or "unknown"] += 1
        if read.outcome != "exact":
            examples = self.samples.setdefault(read.outcome, [])
            if len(examples) < _SAMPLES:
                examples.append({"id": record.id, "text": text[:_SAMPLE_CHARACTERS]})

    def to_json(self) -> dict[str, Any]:
        return {
            "unreadable_lines": self.unreadable_lines,
            "records": self.records,
            "unanswered": self.unanswered,
            "completions": self.completions,
            "sampled": self.sampled,
            "identical_samples": self.identical_samples,
            "outcomes": dict(self.outcomes.most_common()),
            "finish_reasons": dict(self.finish_reasons.most_common()),
            "dropped": dict(self.dropped.most_common()),
            "samples": self.samples,
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        lines = [f"{self.completions} completions read: {counts or 'none'}"]
        if self.dropped:
            counts = ", ".join(f"{name} {count}" for name, count in self.dropped.most_common())
            lines.append(f"left out by filters: {counts}")
        if self.unreadable_lines:
            lines.append(f"warning: {self.unreadable_lines} unreadable journal lines were skipped")
        if self.unanswered:
            lines.append(f"{self.unanswered} of {self.records} records have no answer yet")
        if self.identical_samples and self.identical_samples == self.sampled:
            lines.append(
                "warning: the samples of every record are identical: the server seems to ignore "
                "temperature, so their agreement means nothing"
            )
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads a journal's answers to records."""

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
            for text, finish_reason in completions:
                reading = answer_parser.read(
                    self.prompt, record, text, finish_reason, self.strictness
                )
                report.count(record, text, finish_reason, reading)
                readings.append(reading)
            report.records += 1
            report.unanswered += not completions
            report.sampled += len(completions) > 1
            report.identical_samples += len(completions) > 1 and len(set(completions)) == 1
            yield vote(self.prompt.metric, record, readings)

    def _completions(self, record: Record) -> Iterator[tuple[str, str | None]]:
        """(Text, finish reason) of every sample in the journal."""
        sha = self.sha_of(record)
        for sample in range(self.n):
            row = self.journal.get(answer_key(sha, sample))
            if row is not None:
                # A model may emit half a surrogate pair, which no UTF-8 file can hold.
                text = row["text"].encode("utf-8", "replace").decode()
                yield text, row.get("finish_reason")


def write(
    folder: Path, inputs: Inputs, reader: Reader, filters: Filters
) -> tuple[ParseReport, dict[str, ReportCard]]:
    """Writes all output files, each whole or not at all; returns what they report, per split."""
    report, cards = ParseReport(reader.journal.unreadable), {}
    with _replacing(folder / RATIONALES) as rationales:
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
    with _replacing(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A file that takes its name only when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("w", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
