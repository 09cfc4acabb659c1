"""The files of `sbs predict`: questions in, answers out, and continuing an interrupted file."""

import contextlib
import csv
import dataclasses
import datetime
import decimal
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
METRIC = "metric"  # of the run, in FILE.made_by.json

# What the questions may bring that the answers call otherwise: as in predictions-*.jsonl.
_RENAMED = {
    "rationale": "teacher_rationale",
    "llm_label": "teacher_label",
    "confidence": "teacher_confidence",
    "label_probabilities": "teacher_label_probabilities",
    "correct": "own_correct",
    "teacher_correct": "own_teacher_correct",
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
            the label, `rationale` and `llm_label` as gold, teacher_rationale and teacher_label.
    """

    where: str
    fields: dict[str, Any]

    @property
    def record(self) -> Record:
        """The question as a record; the student does not see its gold label."""
        rationale = self.fields.get("teacher_rationale")
        return Record(str(self.fields["id"]), self.fields["input"], "", rationale)


def read(path: str, text: str = "input", label: str = "label") -> Iterator[Question | BadRow]:
    """Streams the rows of stdin ("-"; JSONL) or of a table (see `tables.rows`).

    Blank lines are skipped. A row without id gets its line number, or its number in a table other
    than JSONL, as in `records.read_table`.

    Args:
        text: the column, or field, of the question.
        label: that of the gold label.

    Raises:
        UserError: a file that cannot be read, or a CSV file without these columns.
    """
    for where, number, row in _rows(path, text, label):
        try:
            yield _question(where, number, row, text, label)
        except BadRow as bad:
            yield bad


# (Place, the number that stands in for an id, fields or what is wrong with them)
_Rows = Iterator[tuple[str, int, Any]]


def _rows(path: str, text: str, label: str) -> _Rows:
    if _is_csv(path):
        yield from _csv_rows(path, text, label)
    elif path == STDIN or tables.is_jsonl(path):
        yield from _json_rows(path)
    else:
        for number, (where, row) in enumerate(tables.rows(path), start=1):
            yield where, number, row


def good(rows: Iterable[Question | BadRow]) -> Iterator[Question]:
    """The rows that can be asked."""
    return (row for row in rows if isinstance(row, Question))


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


def _json_rows(path: str) -> _Rows:
    shown = "stdin" if path == STDIN else path
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = jsonl.parse(line)
                except UserError as error:
                    row = BadRow(str(error))
                yield f"{shown}:{number}", number, row


def _csv_rows(path: str, text: str, label: str) -> _Rows:
    with _open(path) as file:
        reader, before = csv_tables.reader(file)
        header: list[str] = next(reader, [])
        _check_header(f"{path}:{before + 1}", header, text, label)
        number = 1
        while True:
            line = reader.line_num + before + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                row: Any = BadRow(f"not valid CSV ({error})")
            else:
                if cells is None:
                    return
                if not cells:
                    continue
                row = dict(zip(header, cells, strict=False))
                if len(cells) != len(header):
                    row = BadRow(f"{len(cells)} cells under {len(header)} columns")
            yield f"{path}:{line}", number, row
            number += 1


def _check_header(where: str, header: list[str], text: str, label: str) -> None:
    needed = {text: "question with --text"}
    if label != "label":
        needed[label] = "label with --label"
    for column, advice in needed.items():
        if column not in header or len(set(header)) < len(header):
            raise UserError(
                f"{where}: the header must name a column {column}, and none twice; it has "
                f"{', '.join(header) or 'nothing'}; give the column of the {advice}"
            )


def _question(where: str, number: int, row: Any, text: str, label: str) -> Question:
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
    names = _RENAMED | {"label": "own_label"} | {label: "gold", text: "input"}
    fields: dict[str, Any] = {"id": row.get("id", str(number))}
    for field, value in row.items():
        name = names.get(str(field), str(field))
        if name in fields and name != "id":
            raise BadRow(f"{where}: holds field {name!r} under two names; drop one of them")
        fields[name] = _carried_value(where, name, value)
    return Question(where, fields)


def _carried_value(where: str, name: str, value: Any) -> Any:
    """A field's value as the output has it."""
    value = _plain(value)
    if name == "gold":
        value = _as_text(value)
    if name == "teacher_label" and value == "":
        return None  # a table's empty cell: the teacher has not answered
    try:
        _line({name: value}).encode()
    except UnicodeEncodeError:
        raise BadRow(f"{where}: not UTF-8 text (field {name!r})") from None
    except TypeError as error:  # of a Parquet file
        raise BadRow(f"{where}: field {name!r} holds what JSON cannot ({error})") from None
    return value


def _as_text(label: Any) -> Any:
    """A label that is a number as text, as `sbs train --records` reads it."""
    return json.dumps(label) if isinstance(label, int | float) else label


def _plain(value: Any) -> Any:
    """The value as JSON has it: times and decimals as text, None for numbers that are not finite.

    pandas writes such numbers where a table has nothing.
    """
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
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
        note = _note(self._path)
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


def metric_of(path: Path) -> str | None:
    """The metric of the run whose answers a file holds; None where no note says so."""
    try:
        return json.loads(_note(path).read_text(encoding="utf-8")).get(METRIC)
    except (OSError, ValueError, AttributeError):
        return None


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.made_by.json")


def _refuse_another(path: Path, note: Path, made_by: dict[str, Any]) -> None:
    try:
        before = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{path}: is there, and {note.name} does not say from which student; choose another "
            "--output or delete it"
        ) from None
    for name in sorted((made_by.keys() | before.keys()) - {"model_dir", METRIC}):
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
