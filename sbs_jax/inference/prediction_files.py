"""The files of `sbs predict`: questions in, answers out, and continuing an interrupted file."""

import contextlib
import csv
import dataclasses
import io
import json
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sbs_jax.datasets import csv_tables, tables
from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.utils import jsonl

STDIN = STDOUT = "-"

# What the questions may bring that the answers call otherwise: as in predictions-*.jsonl.
_RENAMED = {
    "label": "gold",
    "rationale": "teacher_rationale",
    "llm_label": "teacher_label",
    "confidence": "teacher_confidence",
    "label_probabilities": "teacher_label_probabilities",
}
_ANSWERS = ("label", "rationale", "confidence", "label_probabilities")


class BadRow(Exception):
    """A row that cannot be asked; the text opens with file:line."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One row of the input.

    Attributes:
        where: file:line, for messages.
        fields: what is carried to the output: id first, then the row's own fields in their order,
            a `label`, `rationale` and `llm_label` as gold, teacher_rationale and teacher_label.
    """

    where: str
    fields: dict[str, Any]

    @property
    def record(self) -> Record:
        """The question as a record; the student does not see its gold label."""
        rationale = self.fields.get("teacher_rationale")
        return Record(str(self.fields["id"]), self.fields["input"], "", rationale)


def read(path: str, text: str = "input") -> Iterator[Question | BadRow]:
    """Streams the rows of stdin ("-"; JSONL) or of a table (see `tables.rows`).

    Blank lines are skipped. A row without id gets its line number, or its number in a table without
    lines.

    Args:
        text: the column, or field, of the question.

    Raises:
        UserError: a file that cannot be read, or a CSV file without that column.
    """
    if path != STDIN and not _is_csv(path) and not tables.is_jsonl(path):
        for number, (where, row) in enumerate(tables.rows(path), start=1):
            try:
                yield _question(where, number, row, text)
            except BadRow as bad:
                yield bad
        return
    with _open(path) as file:
        rows = _csv_rows(path, file, text) if _is_csv(path) else _json_rows(file)
        for number, row in rows:
            try:
                yield _question(f"{_shown(path)}:{number}", number, row, text)
            except BadRow as bad:
                yield bad


def good(rows: Iterable[Question | BadRow]) -> Iterator[Question]:
    """The rows that can be asked."""
    return (row for row in rows if isinstance(row, Question))


def _shown(path: str) -> str:
    return "stdin" if path == STDIN else path


@contextlib.contextmanager
def _open(path: str) -> Iterator[io.TextIOWrapper]:
    # Bytes that are not UTF-8 are found in their row, with its line number. Only line feeds end a
    # JSON line; the csv module asks for its line ends as they are.
    newline = "" if _is_csv(path) else "\n"
    if path == STDIN:
        with open(0, "rb", closefd=False) as stdin:
            yield io.TextIOWrapper(stdin, "utf-8-sig", "surrogateescape", newline)
    else:
        with jsonl.opened(path) as file:
            yield io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline)


def _is_csv(path: str) -> bool:
    return path.lower().removesuffix(".gz").endswith(".csv")


def _json_rows(file: Iterable[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield number, jsonl.parse(line)
            except UserError as error:
                yield number, BadRow(str(error))


def _csv_rows(path: str, file: Iterable[str], text: str) -> Iterator[tuple[int, Any]]:
    reader, before = csv_tables.reader(file)
    header: list[str] = next(reader, [])
    if text not in header or len(set(header)) < len(header):
        raise UserError(
            f"{path}:{before + 1}: the header must name a column {text}, and none twice; it has "
            f"{', '.join(header) or 'nothing'}; give the column of the question with --text"
        )
    while True:
        number = reader.line_num + before + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            yield number, BadRow(f"not valid CSV ({error})")
            continue
        if cells is None:
            return
        if len(cells) not in (0, len(header)):
            yield number, BadRow(f"{len(cells)} cells under {len(header)} columns")
        elif cells:
            yield number, dict(zip(header, cells, strict=True))


def _question(where: str, number: int, row: Any, text: str) -> Question:
    if isinstance(row, BadRow):
        raise BadRow(f"{where}: {row}")
    if not isinstance(row, dict):
        raise BadRow(f"{where}: expected a JSON object with a field {text}")
    if not isinstance(row.get(text), str) or not row[text].strip():
        raise BadRow(
            f"{where}: field {text!r} is missing, blank or not text (--text names another field)"
        )
    if not isinstance(row.get("rationale"), str | None):
        raise BadRow(f"{where}: field 'rationale' must be text or absent")
    fields: dict[str, Any] = {"id": row.get("id", str(number))}
    for field, value in row.items():
        name = "input" if field == text else _RENAMED.get(str(field), str(field))
        if name in fields and name != "id":
            raise BadRow(f"{where}: holds field {name!r} under two names; drop one of them")
        value = _finite(value)
        fields[name] = _as_text(value) if name == "gold" else value
    try:
        _line(fields).encode()
    except UnicodeEncodeError:
        raise BadRow(f"{where}: not UTF-8 text") from None
    except TypeError as error:  # of a Parquet file
        raise BadRow(f"{where}: a field holds what JSON cannot ({error})") from None
    return Question(where, fields)


def _as_text(label: Any) -> Any:
    """A label that is a number as text, as `sbs train --records` reads it."""
    return json.dumps(label) if isinstance(label, int | float) else label


def _finite(value: Any) -> Any:
    """The value, with None for numbers that are not finite.

    JSON has none, and pandas writes them where a table has nothing.
    """
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"


class Answers:
    """The output: a JSONL file that a later start continues, or stdout ("-").

    FILE.made_by.json next to the file says which student it is from. The answers of another
    student, or to other questions, are never continued.

    Args:
        made_by: identifies the student and what it was asked for.

    Raises:
        UserError: the file is another student's, or was not written by `sbs predict`.
    """

    def __init__(self, path: str, made_by: dict[str, Any]) -> None:
        self._path = None if path == STDOUT else Path(path)
        if self._path is None:
            self._file = sys.stdout
            return
        note = self._path.with_name(f"{self._path.name}.made_by.json")
        try:
            if self._path.exists() and self._path.stat().st_size:
                _refuse_another(self._path, note, made_by)
                _drop_torn_line(self._path)
            else:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                note.write_text(json.dumps(made_by, indent=2) + "\n", encoding="utf-8")
            self._file = self._path.open("a", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None

    def __enter__(self) -> "Answers":
        return self

    def __exit__(self, *error: object) -> None:
        if self._path is not None:
            self._file.close()

    def pass_over(self, questions: Iterator[Question]) -> int:
        """Takes from `questions` those that are answered already; returns how many.

        Raises UserError where a line of the file is not the answer to the question in its place.
        """
        if self._path is None:
            return 0
        count = 0
        with self._path.open(encoding="utf-8") as file:
            for count, line in enumerate(file, start=1):
                question = next(questions, None)
                if question is None or _carried(line) != question.fields:
                    place = question.where if question else "any row of the input"
                    raise UserError(
                        f"{self._path}:{count}: not the answer to {place}; choose another --output"
                    )
        return count

    def write(self, questions: Iterable[Question], answers: Iterable[dict[str, Any]]) -> None:
        """Appends one line per question and makes sure that the system has them."""
        rows = zip(questions, answers, strict=True)
        try:
            self._file.writelines(_line(question.fields | answer) for question, answer in rows)
            self._file.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            again = "; make room, then the same command continues" if self._path else ""
            raise UserError(
                f"{self._path or 'stdout'}: cannot be written ({error.strerror}){again}"
            ) from None


def _refuse_another(path: Path, note: Path, made_by: dict[str, Any]) -> None:
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{path}: is there, and {note.name} does not say from which student; choose another "
            "--output or delete it"
        ) from None
    for name in sorted((made_by.keys() | before.keys()) - {"model_dir"}):
        if before.get(name) != made_by.get(name):
            raise UserError(
                f"{path}: holds the answers of another student or request: {name} was "
                f"{before.get(name)!r}, now {made_by.get(name)!r}; choose another --output or "
                "delete it"
            )


def _drop_torn_line(path: Path) -> None:
    """Cuts a file after its last whole line."""
    with path.open("rb+") as file:
        whole = sum(len(line) for line in file if line.endswith(b"\n"))
        file.truncate(whole)


def _carried(line: str) -> dict[str, Any] | None:
    """The fields that came from the question; None for a line that is no answer."""
    try:
        fields = json.loads(line)
        return {name: value for name, value in fields.items() if name not in _ANSWERS}
    except (ValueError, AttributeError):
        return None
