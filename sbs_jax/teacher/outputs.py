"""Writes the files of a run: records to train on, rationales by id, unreadable answers.

In the journal's folder:

* ``SPLIT.jsonl``: every record of the input SPLIT.jsonl with the teacher's fields, for `sbs train`;
* ``rationales.jsonl``: one line per record (id, rationale, label, agreement, ...), for joining to
  data held elsewhere as ``annotations.jsonl``; what a person decided (`edits`) is applied;
* ``parse_report.json``: counts of every outcome, and samples of each kind of failure;
* ``report_card.json``: the teacher against gold.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.metrics import accuracy
from sbs_jax.teacher import edits
from sbs_jax.teacher.parse_report import ParseReport
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.report_card import ReportCard
from sbs_jax.teacher.voting import Answer, Filters
from sbs_jax.utils.files import atomic_writer

RATIONALES = "rationales.jsonl"
PARSE_REPORT = "parse_report.json"
REPORT_CARD = "report_card.json"

Inputs = Mapping[str, Callable[[], Iterable[Record]]]


Answers = Callable[[str, Iterable[Record], ParseReport], Iterator[Answer]]
# (Split, record id) -> (rationale, where it comes from), for answers that were wrong.
Explained = Mapping[tuple[str, str], tuple[str, str]]


def write(
    folder: Path,
    inputs: Inputs,
    prompt: Prompt,
    answers: Answers,
    filters: Filters,
    report: ParseReport,
    explained: Explained | None = None,
) -> dict[str, ReportCard]:
    """Writes all output files, each whole or not at all; returns a report card per split.

    Args:
        answers: gives one answer per record of a split, in order, and counts into the report.
        explained: rationales of a second pass; they count neither as answers nor in the cards.
    """
    cards = {}
    decided = edits.load(folder)
    with atomic_writer(folder / RATIONALES) as rationales:
        for split, records in inputs.items():
            cards[split] = card = ReportCard(prompt)
            answered = filters.apply(prompt, answers(split, records(), report))
            files = _Files(split, rationales, prompt, card, report, explained or {}, decided)
            write_jsonl(folder / f"{split}.jsonl", files.annotated(answered))
    _write_json(folder / PARSE_REPORT, report.to_json())
    _write_json(folder / REPORT_CARD, {split: card.to_json() for split, card in cards.items()})
    return cards


@dataclasses.dataclass
class _Files:
    """Where the answers of one split go."""

    split: str
    rationales: IO[Any]
    prompt: Prompt
    card: ReportCard
    report: ParseReport
    explained: Explained
    decided: edits.Edits

    def annotated(self, answered: Iterable[Answer]) -> Iterator[Record]:
        """The records with the teacher's fields; counts and writes each on the way."""
        for answer in answered:
            self.card.add(answer)
            self.report.dropped.update(answer.dropped)
            line = {"split": self.split, **answer.to_json(), **self._correct(answer)}
            rationale, several = answer.kept_rationale, answer.kept_rationales
            second = self.explained.get((self.split, answer.record.id))
            if second is not None:
                rationale, line["provenance"] = second
                line["rationale"], several = rationale, ()
                line.pop("rationales", None)
                self.report.explained[second[1]] += 1
            record = dataclasses.replace(
                answer.record,
                rationale=rationale,
                llm_label=answer.kept_label,
                rationales=several,
            )
            edit = self.decided.get((self.split, record.id))
            if edit is not None:
                line = edit.applied(line, record.label, self.prompt.metric)
                record = edit.of(record)
            self.rationales.write(json.dumps(line, ensure_ascii=False) + "\n")
            yield record

    def _correct(self, answer: Answer) -> dict[str, bool]:
        """Whether the label is the gold one, where there are both."""
        gold = answer.record.label
        if not answer.samples or not gold.strip():
            return {}
        return {"correct": accuracy.is_correct(self.prompt.metric, answer.label, gold)}


def _write_json(path: Path, value: Any) -> None:
    with atomic_writer(path) as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.write("\n")
