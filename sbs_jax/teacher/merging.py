"""Merges answers of several teachers into one per record: votes, and agreement of teachers.

Each teacher has one folder, made by `sbs annotate`. Their ``rationales.jsonl`` are merged, so the
prompts, models and numbers of samples may differ.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.metrics import accuracy
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.teacher.answer_parser import Reading
from sbs_jax.teacher.outputs import RATIONALES
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.report_card import ReportCard
from sbs_jax.teacher.voting import Answer, vote
from sbs_jax.utils import jsonl
from sbs_jax.utils.files import write_lines

AGREEMENT = "agreement.json"

Given = dict[tuple[str, str], Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Teacher:
    """One folder's answers by split and id."""

    name: str
    answers: Given


def load(folders: Iterable[Path]) -> list[Teacher]:
    """Reads the folders. Raises UserError for one without answers, and for two of one name."""
    teachers: list[Teacher] = []
    for folder in folders:
        path = folder / RATIONALES
        if not path.is_file():
            raise UserError(f"{path}: no such file; --merge takes the --out folders of annotate")
        answers: Given = {}
        for where, line in jsonl.lines(path):
            row = jsonl.parse_object(line, where, ("split", "id", "label", "rationale"))
            texts = [row.get(name) for name in ("label", "rationale")]
            if not all(isinstance(text, str | None) for text in texts):
                raise UserError(
                    f"{where}: label and rationale must be text; annotate wrote another"
                )
            answers[str(row.get("split")), str(row.get("id"))] = row
        teachers.append(Teacher(folder.name, answers))
    names = [teacher.name for teacher in teachers]
    if len(set(names)) < len(names):
        raise UserError(f"--merge: two folders are called alike ({', '.join(names)}); rename one")
    return teachers


def _reading(teacher: Teacher, split: str, record: Record) -> Reading | None:
    """One teacher's reading of a record; None if it was not asked or its answer was dropped."""
    row = teacher.answers.get((split, record.id))
    if row is None or row.get("label") is None:
        return None
    label = row["label"].strip()
    return Reading(row.get("rationale") or "", label, "exact" if label else "no_answer")


@dataclasses.dataclass
class Agreement:
    """Every teacher's report card, and how often two of them give the same label."""

    prompt: Prompt
    teachers: list[Teacher]
    cards: dict[str, ReportCard] = dataclasses.field(default_factory=dict)
    same: dict[tuple[str, str], Accuracy] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cards = {teacher.name: ReportCard(self.prompt) for teacher in self.teachers}

    def add(self, record: Record, readings: Mapping[str, Reading]) -> None:
        """Counts what the teachers, by name, say of one record."""
        for name, reading in readings.items():
            self.cards[name].add(vote(self.prompt.metric, record, [reading]))
        for one, other in itertools.combinations(readings, 2):
            labels = readings[one].label, readings[other].label
            equal = accuracy.is_correct(self.prompt.metric, *labels)
            counts = self.same.get((one, other), Accuracy(0, 0))
            self.same[one, other] = counts + Accuracy(int(equal), 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "accuracy": {name: card.overall.to_json() for name, card in self.cards.items()},
            "report_cards": {name: card.to_json() for name, card in self.cards.items()},
            "agreement": [
                {"teachers": list(pair), **counts.to_json()} for pair, counts in self.same.items()
            ],
        }

    def __str__(self) -> str:
        """The accuracies, then a matrix of how often two teachers give the same label."""
        names = list(self.cards)
        wide = max(8, *map(len, names)) + 2
        lines = [
            f"{name}'s accuracy".ljust(22) + (str(card.overall) if card.overall.n else "not scored")
            for name, card in self.cards.items()
        ]
        lines.append("same label".ljust(wide) + "".join(name.rjust(wide) for name in names))
        for row in names:
            cells = (self._share(row, column) for column in names)
            lines.append(row.ljust(wide) + "".join(cell.rjust(wide) for cell in cells))
        return "\n".join(lines)

    def _share(self, one: str, other: str) -> str:
        counts = self.same.get((one, other)) or self.same.get((other, one))
        return f"{counts.value:.4f}" if counts else "-"


def answers(
    prompt: Prompt,
    split: str,
    records: Iterable[Record],
    agreement: Agreement,
    rationales: int = 1,
) -> Iterator[Answer]:
    """The teachers' vote on each record, in order (ties: the first teacher's label).

    Counts into `agreement`.
    """
    for record in records:
        named = ((each.name, _reading(each, split, record)) for each in agreement.teachers)
        readings = {name: reading for name, reading in named if reading is not None}
        agreement.add(record, readings)
        yield vote(prompt.metric, record, list(readings.values()), rationales=rationales)


def write_agreement(path: Path, agreement: Agreement) -> None:
    """Writes the counts as JSON."""
    text = json.dumps(agreement.to_json(), indent=1, ensure_ascii=False)
    write_lines(path, [text, "\n"])
