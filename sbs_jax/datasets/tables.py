"""Rows of a table in any common format, as dicts: JSONL, JSON array, CSV, TSV, Parquet, Arrow.

A file's name and its content say what it is; JSONL, JSON, CSV and TSV may be compressed with gzip.
A column of classes of Hugging Face datasets comes as their names.
Every mistake is one line that names the file and the row.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sbs_jax.datasets import arrow_tables, csv_tables
from sbs_jax.errors import UserError
from sbs_jax.utils import jsonl

Rows = Iterator[tuple[str, dict[str, Any]]]


def rows(path: str) -> Rows:
    """Streams (place, row) of a table.

    Args:
        path: a file, or a folder that Hugging Face's ``Dataset.save_to_disk`` wrote.

    Raises:
        UserError: a file that cannot be read, or is no such table; the message names the row.
    """
    if Path(path).is_dir():
        return arrow_tables.saved_dataset(Path(path))
    return _READERS.get(_suffix(path), _jsonl)(path)


def is_jsonl(path: str | os.PathLike[str]) -> bool:
    """Whether `rows` reads a file line by line as JSON."""
    path = os.fspath(path)
    reader = None if Path(path).is_dir() else _READERS.get(_suffix(path), _jsonl)
    return reader is _jsonl and not _is_array(path)


def stem(path: str | os.PathLike[str]) -> str:
    """The name of a file without its ending: ``data/train.jsonl.gz`` -> ``train``."""
    name = Path(path).name
    return Path(name[: -len(".gz")] if name.lower().endswith(".gz") else name).stem


def _suffix(path: str) -> str:
    return Path(path.lower().removesuffix(".gz")).suffix


def _jsonl(path: str) -> Rows:
    return _array(path) if _is_array(path) else jsonl.objects(path)


def _is_array(path: str) -> bool:
    with jsonl.opened(path) as file:
        return file.read(64).decode("utf-8-sig", "ignore").lstrip().startswith("[")


def _array(path: str) -> Rows:
    with jsonl.opened(path) as file:
        content = file.read()
    try:
        values = jsonl.parse(content.decode("utf-8-sig"), path)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text; save the file as UTF-8") from None
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise UserError(f"{path}: item {number} is no JSON object")
        yield f"{path}: item {number}", value


_READERS: dict[str, Callable[[str], Rows]] = {
    ".csv": csv_tables.separated(None),
    ".tsv": csv_tables.separated("\t"),
    ".parquet": arrow_tables.parquet,
    ".arrow": arrow_tables.arrow,
    ".feather": arrow_tables.arrow,
}
