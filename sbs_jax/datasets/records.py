"""One question with its answers, and its JSONL file: what everything else reads and writes."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from sbs_jax.errors import UserError

# Stands for the EOS id in an input: the released NLI inputs are premise + EOS + hypothesis.
SEPARATOR = "</s>"


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A question, its gold label, and what the teacher said of it.

    Attributes:
        id: unique within a dataset's split.
        input: the question without task prefix; `SEPARATOR` marks where the EOS id goes.
        label: the gold answer.
        rationale: the teacher's chain of thought, or None where there is none.
        llm_label: the teacher's answer, or None where there is none. Blank text (``" "``) means
            that the completion held no readable answer, as in the original's files.
    """

    id: str
    input: str
    label: str
    rationale: str | None = None
    llm_label: str | None = None


_OPTIONAL = ("rationale", "llm_label")


def parse_line(line: str, where: str, default_id: str) -> Record:
    """Reads one JSON object; `where` (file:line) opens every error."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg}); fix or delete the line") from None
    if not isinstance(fields, dict):
        raise UserError(f"{where}: expected a JSON object with fields input and label")
    for name in ("input", "label"):
        if not isinstance(fields.get(name), str):
            raise UserError(
                f"{where}: field {name!r} is missing or is not text; every record needs it"
            )
    for name in _OPTIONAL:
        if not isinstance(fields.get(name), str | None):
            raise UserError(f"{where}: field {name!r} must be text or absent")
    return Record(
        id=str(fields.get("id", default_id)),
        input=fields["input"],
        label=fields["label"],
        rationale=fields.get("rationale"),
        llm_label=fields.get("llm_label"),
    )


def lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Streams (number from 1, text) of a file's lines; blank ones are skipped.

    Raises UserError for a file that cannot be read, and file:line for one that is not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = _decoded(line, f"{path}:{number}", first=number == 1)
                if text.strip():
                    yield number, text
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _decoded(line: bytes, where: str, first: bool) -> str:
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text; save the file as UTF-8") from None


def read_jsonl(path: str | os.PathLike) -> Iterator[Record]:
    """Streams the records of a JSONL file; blank lines are skipped.

    A record without an ``id`` gets its line number. Raises UserError (file:line and field) for a
    missing file, a line that is not JSON, or a record without input or label.
    """
    for number, line in lines(path):
        yield parse_line(line, f"{path}:{number}", str(number))


def write_jsonl(path: str | os.PathLike, records: Iterable[Record]) -> int:
    """Writes records through a temporary file that is renamed at the end; returns how many."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        with partial.open("w", encoding="utf-8") as file:
            for record in records:
                fields = {k: v for k, v in dataclasses.asdict(record).items() if v is not None}
                file.write(json.dumps(fields, ensure_ascii=False) + "\n")
                count += 1
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count
