"""Answers of several teachers -> one answer per record: votes, and who agrees with whom.

Each teacher has one folder, made by `sbs annotate`. Their ``rationales.jsonl`` are merged, so the
prompts, models and numbers of samples may differ.
"""

import dataclasses
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


def answer(prompt: Prompt, split: str, record: Record, teachers: list[Teacher]) -> Answer:
    """The vote of the teachers on one record; of equals the first teacher's label counts."""
    readings = []
    for teacher in teachers:
        row = teacher.answers.get((split, record.id))
        label = (row.get("label") or "").strip() if row else ""
        if row is None or row.get("label") is None:
            continue
        rationale = row.get("rationale") or ""
        readings.append(Reading(rationale, label, "exact" if label else "no_answer"))
    return vote(prompt.metric, record, readings)


@dataclasses.dataclass
class Agreement:
    """Every teacher's accuracy, and how often two of them give the same label."""

    prompt: Prompt
    teachers: list[Teacher]
    right: dict[str, Accuracy] = dataclasses.field(default_factory=dict)
    same: dict[tuple[str, str], Accuracy] = dataclasses.field(default_factory=dict)

    def add(self, split: str, record: Record) -> None:
        """Counts one record."""
        given = {
            teacher.name: (row.get("label") or "").strip()
            for teacher in self.teachers
            if (row := teacher.answers.get((split, record.id))) is not None
        }
        for name, label in given.items():
            if record.label.strip():
                self._count(self.right, name, self._equal(label, record.label))
        names = list(given)
        for index, one in enumerate(names):
            for other in names[index + 1 :]:
                self._count(self.same, (one, other), self._equal(given[one], given[other]))

    def _equal(self, one: str, other: str) -> bool:
        return accuracy.is_correct(self.prompt.metric, one, other)

    def _count(self, counts: dict[Any, Accuracy], key: Any, hit: bool) -> None:
        counts[key] = counts.get(key, Accuracy(0, 0)) + Accuracy(int(hit), 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "accuracy": {name: counts.to_json() for name, counts in self.right.items()},
            "agreement": [
                {"teachers": list(pair), **counts.to_json()} for pair, counts in self.same.items()
            ],
        }

    def __str__(self) -> str:
        lines = [
            f"{name}'s accuracy".ljust(22) + str(counts) for name, counts in self.right.items()
        ]
        for (one, other), counts in self.same.items():
            lines.append(f"{one} = {other}".ljust(22) + str(counts))
        return "\n".join(lines)


def answers(
    prompt: Prompt, split: str, records: Iterable[Record], agreement: Agreement
) -> Iterator[Answer]:
    """One per record, in order; counts into `agreement`."""
    for record in records:
        agreement.add(split, record)
        yield answer(prompt, split, record, agreement.teachers)


def write_agreement(path: Path, agreement: Agreement) -> None:
    """Writes the counts as JSON."""
    text = json.dumps(agreement.to_json(), indent=1, ensure_ascii=False)
    write_lines(path, [text, "\n"])
