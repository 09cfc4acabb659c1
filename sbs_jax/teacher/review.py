"""One HTML page with every answer of a folder, on which a person accepts, edits or drops them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sbs_jax.datasets.records import read_jsonl, write_jsonl
from sbs_jax.errors import UserError
from sbs_jax.teacher import edits, labels, selection
from sbs_jax.teacher.outputs import RATIONALES, REPORT_CARD
from sbs_jax.utils import jsonl, paths
from sbs_jax.utils.files import atomic_writer, write_lines

PAGE = "review.html"

_SHOWN = ("label", "rationale", "outcome", "agreement", "confidence", "correct", "provenance")


def write(folder: Path) -> tuple[Path, int]:
    """Writes the page; returns its path and the number of answers on it."""
    rows = [row for split, lines in _lines(folder).items() for row in _rows(folder, split, lines)]
    template, script = (
        paths.asset(name).read_text(encoding="utf-8") for name in (PAGE, "paged.js")
    )
    # "<" occurs inside strings only: escaped, no answer can end the <script> element.
    data = json.dumps({"name": str(folder), "rows": rows}, ensure_ascii=False)
    page = template.replace("/* script */", script)
    page = page.replace("/* data */", data.replace("<", "\\u003c"))
    write_lines(folder / PAGE, [page])
    return folder / PAGE, len(rows)


def take(folder: Path, source: Path) -> int:
    """Reads decisions that the page saved and applies them; returns how many are new."""
    lines = _lines(folder)
    records = {split: list(read_jsonl(folder / f"{split}.jsonl")) for split in lines}
    prompts = _prompts(folder, records)
    possible = {
        (split, record.id): labels.allowed(prompt["answer"], prompt["labels"], record.input)
        for split, prompt in prompts.items()
        for record in records[split]
    }
    count = edits.add(folder, source, possible)
    decided = edits.load(folder)
    with atomic_writer(folder / RATIONALES) as file:
        for split, rows in lines.items():
            gold = {record.id: record.label for record in records[split]}
            for row in rows:
                edit = decided.get((split, str(row["id"])))
                if edit:
                    row = edit.applied(row, gold[edit.id], prompts[split]["metric"])
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    for split, held in records.items():
        edited = ((decided.get((split, record.id)), record) for record in held)
        written = (edit.of(record) if edit else record for edit, record in edited)
        write_jsonl(folder / f"{split}.jsonl", written)
    chosen = selection.load(folder)
    if chosen:
        selection.write_arms(folder, chosen, records)
    return count


def _prompts(folder: Path, splits: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Split -> what the report card says of its prompt: kind and list of labels, metric."""
    path = folder / REPORT_CARD
    cards = (
        jsonl.parse_object(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}
    )
    try:
        return {split: cards[split]["prompt"] for split in splits}
    except (KeyError, TypeError):
        raise UserError(
            f"{path}: does not say which labels are possible, as those of older versions; run the "
            "same sbs annotate command again, which asks nothing"
        ) from None


def _lines(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Split -> its lines of rationales.jsonl."""
    path = folder / RATIONALES
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the --out folder of sbs annotate")
    splits: dict[str, list[dict[str, Any]]] = {}
    for where, text in jsonl.lines(path):
        row = jsonl.parse_object(text, where)
        splits.setdefault(row["split"], []).append(row)
    return splits


def _rows(folder: Path, split: str, lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_id = {str(line["id"]): line for line in lines}
    rows = []
    for record in read_jsonl(folder / f"{split}.jsonl"):
        line = by_id.get(record.id, {})
        shown = {name: line.get(name) for name in _SHOWN}
        texts = {"split": split, "id": record.id, "input": record.input, "gold": record.label}
        rows.append(texts | shown | {"dropped": line.get("dropped") or []})
    return rows
