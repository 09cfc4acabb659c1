"""Reads a user's table as records: maps columns to fields, draws splits, reports the content."""

import collections
import dataclasses
import itertools
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sbs_jax.datasets import registry, splits, tables
from sbs_jax.datasets.records import Record, read_jsonl, unique, write_jsonl
from sbs_jax.datasets.splits import SPLITS, TEST, TRAIN, VALIDATION
from sbs_jax.errors import UserError, nearest
from sbs_jax.utils.buckets import place

DATA = "data"  # folder of the records in a MODEL_DIR
ID = "id"  # column that is used where all rows have a value of their own in it

_SEED = 0
_SHOWN = 8  # classes a report names
_CHARACTERS = 60  # of a question that a report names
_MOST_CLASSES = 50  # with more the labels are no classes
# What pandas, R and databases write into a text file for a value that is missing.
_MISSING = {"nan", "na", "n/a", "<na>", "null", "none"}


_registered: set[str] = set()  # names that `registered` gave


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column of a table holds which field of a record; None for no such column."""

    text: str
    label: str
    rationale: str | None = None
    teacher_label: str | None = None
    id: str | None = None


def split_files(paths: Mapping[str, str | None]) -> dict[str, str]:
    """Split -> its table. A folder of saved splits fills in those that no path names.

    Args:
        paths: split -> a table (see `tables.rows`) or None; that of train may be a folder that
            ``DatasetDict.save_to_disk`` of Hugging Face datasets wrote.

    Raises:
        UserError: such a folder has no training split.
    """
    named = {split: path for split, path in paths.items() if path}
    folder = Path(named[TRAIN])
    index = folder / "dataset_dict.json"
    if not index.is_file():
        return named
    saved = {split: str(folder / split) for split in SPLITS if (folder / split).is_dir()}
    if TRAIN not in saved:
        raise UserError(f"{folder}: has no split {TRAIN!r}; give one of its splits as a folder")
    return {**saved, **named, TRAIN: saved[TRAIN]}


def unused_splits(path: str) -> list[str]:
    """The splits in the folder of a saved ``DatasetDict`` that `split_files` does not know."""
    if not (Path(path) / "dataset_dict.json").is_file():
        return []
    return sorted(
        folder.name
        for folder in Path(path).iterdir()
        if folder.name not in SPLITS and (folder / "dataset_info.json").is_file()
    )


def have_ids(paths: Iterable[str]) -> bool:
    """Whether every row of these tables has a value in the column `ID` that no other row has."""
    seen: set[str] = set()
    for path in paths:
        for _, row in tables.rows(path):
            value = row.get(ID)
            if type(value) not in (str, int) or not str(value).strip() or str(value) in seen:
                return False
            seen.add(str(value))
    return True


def read(path: str, columns: Columns, required: Collection[str] = ()) -> list[Record]:
    """The records of a table.

    Args:
        path: see `tables.rows`.
        columns: a record without an id column gets its number, from 1. Rationale and teacher's
            label may be absent from single rows, as in JSONL, or empty, as in CSV, and from all.
        required: columns of these that at least one row must have.

    Raises:
        UserError: naming the row and column: a column is missing, or a value is neither text nor
            a number; or the table holds no record.
    """
    present: set[str] = set()

    def records() -> Iterator[tuple[str, Record]]:
        for number, (where, row) in enumerate(tables.rows(path), start=1):
            present.update(row)
            yield where, _record(where, row, columns, str(number))

    table_records = list(unique(records))
    if not table_records:
        raise UserError(f"{path}: holds no record")
    for column in required:
        if column not in present:
            raise UserError(f"{path}: {_no_column(column, present)}")
    return table_records


def _record(where: str, row: Mapping[str, Any], columns: Columns, default_id: str) -> Record:
    def text(column: str | None) -> str | None:
        return _text(where, row, column) or None if column and column in row else None

    def needed(column: str) -> str:
        value = _text(where, row, column)
        if value is None or not value.strip():
            raise UserError(f"{where}: column {column!r} is empty; every record needs it")
        return value

    rationale = text(columns.rationale)
    return Record(
        id=default_id if columns.id is None else needed(columns.id),
        input=needed(columns.text),
        label=needed(columns.label),
        rationale=rationale,
        llm_label=text(columns.teacher_label),
        rationales=_several(row.get("rationales"), rationale),
    )


def _several(value: Any, first: str | None) -> tuple[str, ...]:
    """All rationales of a row of `sbs annotate --rationales=N`: a list that its rationale opens."""
    texts = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return tuple(value) if texts and value[:1] == [first] else ()


def _no_column(column: str, known: Iterable[str]) -> str:
    names = sorted(map(repr, known))
    return f"no column {column!r}{nearest(repr(column), names)}; it has {', '.join(names)}"


def _text(where: str, row: Mapping[str, Any], column: str) -> str | None:
    if column not in row:
        raise UserError(f"{where}: {_no_column(column, row)}")
    value = row[column]
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return json.dumps(value)
    raise UserError(f"{where}: column {column!r} holds {str(value)[:40]}; give text or a number")


def carve(
    files: Mapping[str, Sequence[Record]], fraction: float, path: str
) -> dict[str, list[Record]]:
    """All three splits; draws missing ones from train, by question, with seed 0.

    Args:
        files: split -> records; train at least.
        fraction: of the training questions, for each missing split.
        path: of the training table, for errors.

    Raises:
        UserError: too few questions.
    """
    complete = {split: list(records) for split, records in files.items()}
    missing = [split for split in (TEST, VALIDATION) if split not in complete]
    try:
        for split in missing:
            complete[TRAIN], complete[split] = _divide(complete[TRAIN], fraction)
    except UserError:
        questions = len({splits.question(record.input) for record in files[TRAIN]})
        raise UserError(
            f"{path}: {len(files[TRAIN])} records of {questions} different questions are too few "
            f"to draw {' and '.join(missing)} from (--fraction={fraction:g} each) and leave some "
            "to train on; add questions, or give these splits as tables of their own"
        ) from None
    return {split: complete[split] for split in SPLITS}


def _divide(records: Sequence[Record], fraction: float) -> tuple[list[Record], list[Record]]:
    question_of = splits.question_numbers(record.input for record in records)
    questions = int(question_of.max()) + 1 if len(question_of) else 0
    sides = splits.train_test_rows(questions, fraction, _SEED)
    kept, drawn = (np.sort(splits.rows_of(question_of, side)) for side in sides)
    return [records[row] for row in kept], [records[row] for row in drawn]


def registered(model_dir: str, name: str, method: str, metric: str) -> str:
    """For gin: registers the records in MODEL_DIR/data and returns the mixture's name.

    Raises:
        UserError: another dataset has the name.
    """
    if name in _registered:
        registry.remove(name)  # as another MODEL_DIR of this process called it
    registry.add_dataset(name, records=place(model_dir) / DATA, metric=metric)
    _registered.add(name)
    return f"{name}_{method}"


def holds(folder: Path, records: Mapping[str, Iterable[Record]]) -> bool:
    """Whether a folder holds these records, as `write` writes them.

    An earlier version gave them other ids, and kept an empty rationale or teacher's label.
    """
    files = {split: folder / f"{split}.jsonl" for split in records}
    return all(path.is_file() for path in files.values()) and all(
        [_comparable(row) for row in read_jsonl(files[split])] == [_comparable(row) for row in rows]
        for split, rows in records.items()
    )


def _comparable(row: Record) -> Record:
    return dataclasses.replace(
        row, id="", rationale=row.rationale or None, llm_label=row.llm_label or None
    )


def write(folder: Path, records: Mapping[str, Iterable[Record]]) -> None:
    """FOLDER/SPLIT.jsonl of every split."""
    for split, rows in records.items():
        write_jsonl(folder / f"{split}.jsonl", rows)


def with_split_in_ids(records: Mapping[str, Iterable[Record]]) -> dict[str, list[Record]]:
    """The records with ids that differ between splits: SPLIT-ID."""
    return {
        split: [dataclasses.replace(row, id=f"{split}-{row.id}") for row in rows]
        for split, rows in records.items()
    }


def ids_differ(records: Mapping[str, Iterable[Record]]) -> bool:
    """Whether no id is in two splits."""
    ids = [row.id for rows in records.values() for row in rows]
    return len(set(ids)) == len(ids)


def report(records: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    """Lines on what the splits hold: sizes, rationales, classes and their balance."""
    for split, rows in records.items():
        rationales = sum(bool(row.rationale and row.rationale.strip()) for row in rows)
        questions = len({splits.question(row.input) for row in rows})
        repeated = "" if questions == len(rows) else f" of {questions:,} questions"
        yield f"{split:<11} {len(rows):,} records{repeated}, {rationales:,} with a rationale"
    yield from _contradictions(records[TRAIN])
    everything = [row for rows in records.values() for row in rows]
    yield from _missing("label", (row.label for row in everything))
    yield from _missing("rationale", (row.rationale or "" for row in everything))
    yield from _classes(records)


def _contradictions(train: Iterable[Record]) -> Iterator[str]:
    """A warning for training questions that have several labels."""
    first: dict[int, Record] = {}
    differing: dict[int, Record] = {}  # question -> its first record with another label
    for row in train:
        question = splits.question(row.input)
        if first.setdefault(question, row).label != row.label:
            differing.setdefault(question, row)
    for question, row in itertools.islice(differing.items(), 1):
        yield (
            f"warning: train has {len(differing):,} questions with different labels, such as "
            f"{_short(row.input)} with {first[question].label!r} and {row.label!r}"
        )


def _missing(field: str, texts: Iterable[str]) -> Iterator[str]:
    """A warning for what tables write for a missing value; a label of it may still be a class."""
    missing = collections.Counter(text for text in texts if text.strip().casefold() in _MISSING)
    for text, count in missing.items():
        yield (
            f"warning: {count:,} records have the {field} {text!r}: is it missing? Then leave "
            + ("such rows out of the table" if field == "label" else "the cell empty")
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} ...")


def _classes(records: Mapping[str, Sequence[Record]]) -> Iterator[str]:
    train = collections.Counter(row.label for row in records[TRAIN])
    if len(train) > _MOST_CLASSES:
        yield f"labels      {len(train):,} different ones in train: free text"
        return
    most = train.most_common()
    named = ", ".join(f"{label!r} {count / train.total():.0%}" for label, count in most[:_SHOWN])
    more = f" and {len(most) - _SHOWN} more" if len(most) > _SHOWN else ""
    yield f"labels      {len(most)} classes in train: {named}{more}"
    if len(most) == 1:
        yield f"warning: every label in train is {most[0][0]!r}: the student learns no other answer"
    everything = [row for rows in records.values() for row in rows]
    yield from _alike(text for row in everything for text in (row.label, row.llm_label) if text)
    for split in (VALIDATION, TEST):
        unseen = {row.label for row in records[split]} - train.keys()
        if unseen:
            count = sum(row.label in unseen for row in records[split])
            yield (
                f"warning: {split} has {count} records whose label is not in train, "
                f"such as {min(unseen)!r}"
            )


def _alike(labels: Iterable[str]) -> Iterator[str]:
    """A warning for labels, the teacher's too, that differ by case, spaces or a number's form."""
    forms: dict[str | float, set[str]] = collections.defaultdict(set)
    for label in labels:
        forms[_form(label)].add(label)
    for labels_alike in forms.values():
        if len(labels_alike) > 1:
            named = " and ".join(map(repr, sorted(labels_alike)[:_SHOWN]))
            yield f"warning: labels {named} are different classes; write them alike if they are one"


def _form(label: str) -> str | float:
    text = " ".join(label.casefold().split())
    try:
        return float(text)
    except ValueError:
        return text


def fitting_length(lengths: Sequence[int], most: int) -> int:
    """The smallest multiple of 8 that truncates none, at most `most` tokens."""
    longest = max(lengths, default=1)
    return min(most, math.ceil(longest / 8) * 8)
