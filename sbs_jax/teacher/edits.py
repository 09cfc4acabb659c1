"""A person's decisions on a teacher's answers: accepted, edited or dropped.

``OUT/edits.jsonl`` holds one line per decision, the last of a record counts::

    {"split": "train", "id": "17", "action": "edit", "rationale": "...", "label": "oil",
     "editor": "Ada", "time": "2026-11-29T05:00:00Z", "shown": {"rationale": "...", "label": ".."}}

`sbs review` adds lines; whatever writes the results applies them, so that an edit stays when the
questions are asked or read again.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sbs_jax.datasets.records import Record, parse_id
from sbs_jax.errors import UserError
from sbs_jax.metrics import accuracy
from sbs_jax.utils import jsonl
from sbs_jax.utils.files import write_lines

NAME = "edits.jsonl"

# Action -> provenance of the result.
ACTIONS = {"accept": "accepted", "edit": "edited", "drop": "dropped"}

Edits = Mapping[tuple[str, str], "Edit"]


@dataclasses.dataclass(frozen=True, slots=True)
class Edit:
    """One decision. `rationale` and `label` are what the record then has."""

    split: str
    id: str
    action: str
    rationale: str | None
    label: str | None

    def applied(self, line: Mapping[str, Any], gold: str, metric: accuracy.Name) -> dict[str, Any]:
        """A line of rationales.jsonl after the decision, which stands in place of the filters'."""
        same = (line.get("rationale"), line.get("label")) == (self.rationale, self.label)
        of_the_answer = ("correct",) if same else ("rationales", "correct")
        kept = {name: value for name, value in line.items() if name not in of_the_answer}
        kept |= {"rationale": self.rationale, "label": self.label, "dropped": []}
        if self.label is not None and gold.strip():
            kept["correct"] = accuracy.is_correct(metric, self.label, gold)
        return kept | {"provenance": ACTIONS[self.action]}

    def of(self, record: Record) -> Record:
        """A record after the decision; further rationales stay with an answer that is as it was."""
        same = (record.rationale, record.llm_label) == (self.rationale, self.label)
        return dataclasses.replace(
            record,
            rationale=self.rationale,
            llm_label=self.label,
            rationales=record.rationales if same else (),
        )


def load(folder: Path) -> Edits:
    """The decisions on a folder's answers. Raises UserError with file:line for an odd one."""
    path = folder / NAME
    return {(e.split, e.id): e for e, _, _ in _read(path)} if path.is_file() else {}


def _read(path: Path) -> Iterator[tuple[Edit, str, str]]:
    """(Decision, its line, ``file:line``) in order."""
    for where, text in jsonl.lines(path):
        row = jsonl.parse_object(text, where)
        action, split = row.get("action"), row.get("split")
        if action not in ACTIONS or not isinstance(split, str):
            raise UserError(
                f"{where}: expected split, id and an action out of {', '.join(ACTIONS)}"
            )
        texts = [None if action == "drop" else row.get(name) for name in ("rationale", "label")]
        if not all(isinstance(value, str | None) for value in texts):
            raise UserError(f"{where}: rationale and label must be text or null")
        yield Edit(split, parse_id(row.get("id"), where), str(action), *texts), text.strip(), where


def add(folder: Path, source: Path, possible: Mapping[tuple[str, str], Sequence[str]]) -> int:
    """Appends the lines of `source` that OUT/edits.jsonl lacks; returns their number.

    Args:
        possible: (split, id) of every record -> its labels; none where they cannot be listed.

    Raises UserError for a line that is no decision, on no such record, or with no possible label.
    """
    path = folder / NAME
    there = [line for _, line, _ in _read(path)] if path.is_file() else []
    seen, new = set(there), []
    for edit, line, where in _read(source):
        labels = possible.get((edit.split, edit.id))
        if labels is None:
            raise UserError(f"{where}: {folder} has no record {edit.id!r} of {edit.split}")
        _check_label(edit, labels, where)
        if line not in seen:
            new.append(line)
            seen.add(line)
    write_lines(path, [f"{line}\n" for line in (*there, *new)])
    return len(new)


def _check_label(edit: Edit, labels: Sequence[str], where: str) -> None:
    if edit.action == "drop":
        return
    if not (edit.label or "").strip():
        raise UserError(f"{where}: the label is empty; give one, or drop the answer")
    if labels and edit.label not in labels:
        raise UserError(f"{where}: label {edit.label!r} is not one of {', '.join(labels)}")
