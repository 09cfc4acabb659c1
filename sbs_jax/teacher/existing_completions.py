"""Imports existing completions into the journal: released or generated ones.

Their prompt is unknown, so the key is made of the teacher's name and the record, its id included:
each row of a release has a separate completion, even if two rows hold the same question.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from sbs_jax.datasets.records import Record
from sbs_jax.teacher.journal import Row, Writer
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.requests import answer_key

_AT_ONCE = 1000  # rows per write: nothing here was paid for, so nothing is lost by waiting


def record_sha(teacher: str, record: Record) -> str:
    """The key of an imported completion, without the sample number (which is 0)."""
    known = json.dumps({"teacher": teacher, "id": record.id, "input": record.input})
    return hashlib.sha256(known.encode()).hexdigest()


def settings(prompt: Prompt, teacher: str) -> dict[str, Any]:
    """The settings of a folder of imported completions."""
    return {"task": prompt.name, "model": teacher, "imported": True}


def add(journal: Writer, teacher: str, pairs: Iterable[tuple[Record, str]]) -> int:
    """Adds the completions that the journal lacks; returns how many."""
    added = 0
    rows: list[Row] = []
    for record, text in pairs:
        key = answer_key(record_sha(teacher, record), 0)
        if key in journal:
            continue
        row = {"key": key, "id": record.id, "sample": 0, "model": teacher, "text": text}
        rows.append(row | {"finish_reason": None, "usage": {}})
        added += 1
        if len(rows) == _AT_ONCE:
            journal.add(rows)
            rows.clear()
    journal.add(rows)
    return added
