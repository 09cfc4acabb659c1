"""The files a run leaves: records to train on, rationales by id, and what could not be read.

In the folder, beside the journal:

* ``SPLIT.jsonl``: every record of the input SPLIT.jsonl with the teacher's fields, for `sbs train`;
* ``rationales.jsonl``: one line per record (id, rationale, label, agreement, ...), for joining to
  data held elsewhere as ``annotations.jsonl``;
* ``parse_report.json``: counts of every outcome, and samples of each kind of failure;
* ``report_card.json``: the teacher against gold.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.teacher.parse_report import ParseReport
from sbs_jax.teacher.reader import Reader
from sbs_jax.teacher.report_card import ReportCard
from sbs_jax.teacher.voting import Answer, Filters
from sbs_jax.utils.files import atomic_writer

RATIONALES = "rationales.jsonl"
PARSE_REPORT = "parse_report.json"
REPORT_CARD = "report_card.json"

Inputs = Mapping[str, Callable[[], Iterable[Record]]]


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
    rationales: IO[Any],
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
