"""Collects every test answer of every run for the page, where a small script filters them."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from sbs_jax.reporting.answers import Answers

# Characters of embedded answers at most: browsers open pages of this size within seconds.
LARGEST = 40_000_000


@dataclasses.dataclass(frozen=True)
class Browser:
    """Test answers for a page.

    Attributes:
        data: JSON that is safe inside a ``<script>`` element: it holds no ``<``.
        runs: embedded in it.
        left_out: names of runs that would have made the page too large.
    """

    data: str
    runs: int
    left_out: Sequence[str]


def build(runs: Iterable[tuple[str, Answers]], largest: int = LARGEST) -> Browser | None:
    """The answers of runs by name; a test set that several runs share is embedded once.

    Returns None where no run has answers. The data hold::

        {"sets": [[[id, input, gold, teacher label, teacher right, teacher rationale], ...], ...],
         "runs": [{"name": .., "set": 0, "labels": [..], "right": [1, 0, ..], "rationales": [..]}]}
    """
    sets: dict[str, int] = {}
    questions: list[str] = []
    parts: list[str] = []
    left_out: list[str] = []
    size = 0
    for name, answers in runs:
        key = _key(answers)
        new = [] if key in sets else [_json([_question(row) for row in answers.rows])]
        part = _json(_run(name, sets.get(key, len(questions)), answers))
        if parts and size + len(part) + sum(map(len, new)) > largest:
            left_out.append(name)
            continue
        sets.setdefault(key, len(questions))
        questions += new
        parts.append(part)
        size += len(part) + sum(map(len, new))
    if not parts:
        return None
    data = f'{{"sets":[{",".join(questions)}],"runs":[{",".join(parts)}]}}'
    return Browser(data, len(parts), left_out)


def _key(answers: Answers) -> str:
    """The same for runs whose files hold the same questions and teacher answers in one order."""
    return _json([_question(row) for row in answers.rows])


def _question(row: dict[str, Any]) -> list[Any]:
    return [
        str(row["id"]),
        row["input"],
        row["gold"],
        row.get("teacher_label"),
        _right(row["teacher_correct"]) if row.get("teacher_label") is not None else None,
        row.get("teacher_rationale"),
    ]


def _run(name: str, of_set: int, answers: Answers) -> dict[str, Any]:
    rationales = [row.get("rationale") for row in answers.rows]
    return {
        "name": name,
        "set": of_set,
        "labels": [row["label"] for row in answers.rows],
        "right": [_right(row["correct"]) for row in answers.rows],
        "rationales": rationales if any(rationales) else None,
    }


def _right(score: bool | float) -> float | int:
    """1 and 0 for right and wrong; a share between them stays."""
    return int(score) if score in (0, 1) else round(float(score), 3)


def _json(value: object) -> str:
    # "<" never occurs outside of strings, so that escaping it keeps the JSON's meaning and no
    # answer can end the <script> element.
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
