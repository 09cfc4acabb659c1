"""The record, one question with its answers, and its JSONL file."""

import array
import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sbs_jax.datasets import tables
from sbs_jax.errors import UserError
from sbs_jax.utils import jsonl
from sbs_jax.utils.buckets import place
from sbs_jax.utils.files import atomic_writer

# The EOS id in an input: the released NLI inputs are premise + EOS + hypothesis.
SEPARATOR = "</s>"


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A question, its gold label, and the teacher's output.

    Attributes:
        id: unique within a dataset's split.
        input: the question without task prefix; `SEPARATOR` marks where the EOS id goes.
        label: the gold answer.
        rationale: the teacher's chain of thought, or None.
        llm_label: the teacher's answer, or None. Blank text (``" "``) means
            that the completion held no readable answer, as in the original's files.
        rationales: all of the teacher's rationales where there are several, `rationale` first.
    """

    id: str
    input: str
    label: str
    rationale: str | None = None
    llm_label: str | None = None
    rationales: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The texts that a student may learn to write: the label, then every rationale."""
        texts = (self.label, self.rationale, *self.rationales[1:])
        return tuple(text for text in texts if text)

    def with_rationale(self, number: int) -> "Record":
        """The record with its rationale `number`, from 0; None if it has fewer."""
        if number == 0:
            return self
        more = self.rationales[number] if number < len(self.rationales) else None
        return dataclasses.replace(self, rationale=more)


_OPTIONAL = ("rationale", "llm_label")
_FIELDS = ("id", "input", "label", *_OPTIONAL, "rationales")


def of_fields(fields: Mapping[str, Any], where: str, default_id: str) -> Record:
    """The record in the fields of one row; ignores unknown ones.

    Args:
        fields: name -> value.
        where: ``file:line``, which opens every message.
        default_id: the id of a record without one.

    Raises:
        UserError: a field is missing or of another type.
    """
    for name in ("input", "label"):
        if not isinstance(fields.get(name), str):
            raise UserError(
                f"{where}: field {name!r} is missing or is not text; every record needs it"
            )
    for name in _OPTIONAL:
        if not isinstance(fields.get(name), str | None):
            raise UserError(f"{where}: field {name!r} must be text or absent")
    return Record(
        id=parse_id(fields["id"], where) if "id" in fields else default_id,
        input=fields["input"],
        label=fields["label"],
        rationale=fields.get("rationale"),
        llm_label=fields.get("llm_label"),
        rationales=parse_rationales(fields.get("rationales"), where),
    )


def check_types(record: Record, where: str) -> None:
    """Refuses a record that a user's function made of values that are no text.

    Raises:
        UserError: a field that is not text, such as the bytes of a TFDS example, or that UTF-8
            cannot hold.
    """
    for name in ("id", "input", "label", *_OPTIONAL):
        value = getattr(record, name)
        if not isinstance(value, str) and (value is not None or name not in _OPTIONAL):
            advice = "decode it" if isinstance(value, bytes) else "give str(...)"
            raise UserError(
                f"{where}: field {name!r} is {repr(value)[:40]}, {type(value).__name__} and not "
                f"text; {advice}"
            )
        try:
            (value or "").encode()
        except UnicodeEncodeError:
            raise UserError(f"{where}: field {name!r} holds half of a surrogate pair") from None
    parse_rationales(list(record.rationales), where)


def parse_rationales(value: Any, where: str) -> tuple[str, ...]:
    """The field ``rationales``. Raises UserError for anything but a list of texts."""
    texts = [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: field 'rationales' must be a list of texts or absent")
    return tuple(texts)


def parse_id(value: Any, where: str) -> str:
    """An id as text. Raises UserError for anything but text and whole numbers."""
    # bool is an int to Python; 1.0 would not meet the "1" of another file.
    if type(value) not in (str, int) or value == "":
        raise UserError(
            f"{where}: field 'id' is {json.dumps(value)[:40]}; give text, a whole number, or no id"
        )
    return str(value)


def read_jsonl(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Streams the records of a JSONL file (plain or gzip); skips blank lines.

    A record without ``id`` gets its line number.

    Raises:
        UserError: with file:line and field: a missing file, a line that is not a JSON object, a
            record without input or label; and, after the last record, an id that two lines have.
    """

    def rows() -> Iterator[tuple[str, Record]]:
        for where, default_id, fields in _lines(path):
            yield where, of_fields(fields, where, default_id)

    return unique(rows)


def read_table(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Streams a teacher's questions from any table that `tables.rows` reads.

    As `read_jsonl`, but a record without label, or with null, has a blank one; in a table without
    lines a row without id gets its number.
    """
    lines = tables.is_jsonl(path)

    def rows() -> Iterator[tuple[str, Record]]:
        for where, default_id, fields in _lines(path) if lines else _numbered(path):
            label = "" if fields.get("label") is None else fields["label"]
            yield where, of_fields({**fields, "label": label}, where, default_id)

    return unique(rows)


# (Place, the id of a row without one, its fields)
_Rows = Iterator[tuple[str, str, dict[str, Any]]]


def _lines(path: str | os.PathLike[str]) -> _Rows:
    for where, line in jsonl.lines(path):
        yield where, where.rpartition(":")[2], jsonl.parse_object(line, where, _FIELDS)


def _numbered(path: str | os.PathLike[str]) -> _Rows:
    for number, (where, fields) in enumerate(tables.rows(os.fspath(path)), start=1):
        yield where, str(number), fields


def unique(rows: Callable[[], Iterable[tuple[str, Record]]]) -> Iterator[Record]:
    """Streams records; after the last one, refuses an id used twice.

    Args:
        rows: opens (place, record) pairs; opened again to name the places. Until then an id takes
            8 bytes of memory.

    Raises:
        UserError: naming both places.
    """
    hashes = array.array("q")
    for _, record in rows():
        hashes.append(hash(record.id))
        yield record
    if any(a == b for a, b in itertools.pairwise(sorted(hashes))):
        _name_both(rows())


def _name_both(rows: Iterable[tuple[str, Record]]) -> None:
    seen: dict[str, str] = {}
    for where, record in rows:
        if record.id in seen:
            raise UserError(
                f"{where}: repeated id {record.id!r}, also in {seen[record.id]}; give every record "
                "of a split its own id (in a file, a record without id has its line number)"
            )
        seen[record.id] = where


def write_jsonl(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Writes records to a file that is complete or absent; returns how many."""
    path = place(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with atomic_writer(path) as file:
        for record in records:
            fields = {k: v for k, v in dataclasses.asdict(record).items() if v not in (None, ())}
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")
            count += 1
    return count
