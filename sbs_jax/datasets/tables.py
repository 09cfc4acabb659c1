"""Rows of a table in any common format, as dicts: JSONL, JSON array, CSV, TSV, Parquet, Arrow.

A file's name and its content say what it is; JSONL, JSON, CSV and TSV may be compressed with gzip.
Every mistake is one line that names the file and the row.
"""

import csv
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.utils import jsonl

Rows = Iterator[tuple[str, dict[str, Any]]]

MAX_CELL = 2**27  # characters of a CSV cell; the csv module's limit is 2**17


def rows(path: str) -> Rows:
    """Streams (place, row) of a table.

    Args:
        path: a file, or a folder that Hugging Face's ``Dataset.save_to_disk`` wrote.

    Raises:
        UserError: a file that cannot be read, or is no such table; the message names the row.
    """
    if Path(path).is_dir():
        return _saved_dataset(Path(path))
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


def _separated(delimiter: str) -> Callable[[str], Rows]:
    def read(path: str) -> Rows:
        csv.field_size_limit(MAX_CELL)
        with jsonl.opened(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            try:
                yield from _cells(path, reader)
            except csv.Error as error:
                raise UserError(f"{path}:{reader.line_num}: not valid CSV ({error})") from None
            except UnicodeDecodeError:
                line = reader.line_num + 1
                raise UserError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None

    return read


def _cells(path: str, reader: Any) -> Rows:
    header: list[str] = next(reader, [])
    if not header or len(set(header)) < len(header):
        raise UserError(f"{path}:1: the header must name every column, none twice; has {header}")
    start = reader.line_num + 1
    for cells in reader:
        if cells and len(cells) != len(header):
            raise UserError(f"{path}:{start}: {len(cells)} cells under {len(header)} columns")
        if cells:
            yield f"{path}:{start}", dict(zip(header, cells, strict=True))
        start = reader.line_num + 1


def _parquet(path: str) -> Rows:
    def batches() -> Iterator[Any]:
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches()

    return _arrow(path, batches)


def _saved_dataset(folder: Path) -> Rows:
    parts = sorted(folder.glob("*.arrow"))
    if not parts:
        raise UserError(
            f"{folder}: holds no .arrow file; give a file, or one split of a saved dataset"
        )

    def batches() -> Iterator[Any]:
        import pyarrow

        for part in parts:
            with pyarrow.memory_map(str(part)) as source:
                yield from pyarrow.ipc.open_stream(source)

    return _arrow(str(folder), batches)


def _arrow(path: str, batches: Callable[[], Iterator[Any]]) -> Rows:
    number = 0
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise UserError(f"{path}: needs pyarrow; pip install pyarrow, or give JSONL") from None
    try:
        for batch in batches():
            for row in batch.to_pylist():
                number += 1
                yield f"{path}: row {number}", row
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: cannot be read ({reason})") from None


_READERS: dict[str, Callable[[str], Rows]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _parquet,
}
