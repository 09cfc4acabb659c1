"""Reads JSONL files; every mistake gives one line that names file and line."""

import contextlib
import gzip
import io
import json
import os
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, cast

from sbs_jax.errors import UserError
from sbs_jax.utils.buckets import place, read_bytes
from sbs_jax.utils.paths import is_remote

_GZIP = b"\x1f\x8b"
# First bytes of what people give in place of text, what it is, and what to do.
_FOREIGN = (
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (b"PK\x03\x04", "an Excel workbook or a ZIP archive", "save it as CSV, or unpack it"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "save it as CSV"),
    (b"BZh", "packed with bzip2", "unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "packed with xz", "unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "unpack it, or pack it with gzip"),
    (b"PAR1", "a Parquet file", "let its name end in .parquet"),
    (b"ARROW1", "an Arrow file", "let its name end in .arrow"),
    (b"SQLite format 3", "an SQLite database", "save the table as CSV"),
)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Opens a file for reading bytes; a gzip file, known by its first two bytes, is unpacked.

    Raises:
        UserError: the file cannot be read, is known to hold no text, or its compressed content is
            damaged.
    """
    try:
        with _open(path) as file:
            start = file.peek(16)[:16]
            for mark, kind, advice in _FOREIGN:
                if start.startswith(mark):
                    raise UserError(f"{path}: is {kind}; {advice}")
            packed = start.startswith(_GZIP)
            yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); copy it again") from None
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror or error}); check the path"
        ) from None


def _open(path: str | os.PathLike[str]) -> io.BufferedReader:
    if is_remote(path):
        return io.BufferedReader(cast(io.RawIOBase, io.BytesIO(read_bytes(place(path)))))
    return Path(path).open("rb")


def lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Streams (``path:number``, text) of a file's lines, split at line feeds only.

    Numbers start at 1; blank lines are counted and skipped; a byte order mark is removed; a gzip
    file is unpacked.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8.
    """
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}:{number}"
            text = _decode(line, where, first=number == 1)
            if text.strip():
                yield where, text


def _decode(line: bytes, where: str, first: bool) -> str:
    try:
        return line.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{where}: not UTF-8 text; save the file as UTF-8") from None


def objects(
    path: str | os.PathLike[str], still_written: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Streams (``path:number``, object) of a JSONL file.

    Args:
        path: of the file.
        still_written: skip a last line that is torn because another process is writing it.

    Raises:
        UserError: as `lines`, or a line is not a JSON object.
    """
    pending: UserError | None = None
    for where, text in lines(path):
        if pending is not None:
            raise pending
        try:
            yield where, parse_object(text, where)
        except UserError as error:
            if not still_written:
                raise
            pending = error  # harmless if no line follows


def parse_object(text: str, where: str, fields: Collection[str] | None = None) -> dict[str, Any]:
    """The JSON object in `text`.

    Args:
        text: JSON.
        where: opens every message, e.g. ``file:line``.
        fields: those in use; text in others may hold what UTF-8 cannot. Default: all.

    Raises:
        UserError: the text is not JSON, holds what UTF-8 cannot, is not an object, or gives a field
            twice.
    """
    value = _load(text, where)
    if not isinstance(value, dict):
        kind = "an array" if isinstance(value, list) else f"the value {text.strip()[:40]}"
        raise UserError(f"{where}: expected a JSON object on each line, not {kind}")
    _refuse_repeated(text, value if fields is None else fields, where)
    if _may_hold_surrogates(text):
        used = value if fields is None else [value.get(name) for name in fields]
        _check_surrogates(used, where)
    return value


def _refuse_repeated(text: str, fields: Collection[str], where: str) -> None:
    """JSON keeps the last of two values, but the writer may have meant the first."""
    if all(text.count(f'"{field}"') < 2 for field in fields):  # nearly always: no second parse
        return
    names = [name for name, _ in json.loads(text, object_pairs_hook=list, parse_int=str)]
    for field in fields:
        if names.count(field) > 1:
            raise _error(where, f"field {field!r} is given twice; keep one")


def parse(text: str, where: str = "") -> Any:
    """The JSON value in `text`, of any type. A whole number of over 4,300 digits becomes text.

    Args:
        text: JSON.
        where: opens the message; none for a caller that puts the place before it.

    Raises:
        UserError: the text is not JSON, nests too deeply, or holds an escaped half of a surrogate
            pair, which UTF-8 cannot hold.
    """
    value = _load(text, where)
    if _may_hold_surrogates(text):
        _check_surrogates(value, where)
    return value


def _load(text: str, where: str) -> Any:
    try:
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            raise
        except ValueError:  # Python refuses whole numbers of over 4,300 digits
            return json.loads(text, parse_int=str)
    except json.JSONDecodeError as error:
        raise _error(where, f"not valid JSON ({error.msg}); correct the line") from None
    except RecursionError:
        raise _error(where, "not valid JSON (nested too deeply)") from None


def _may_hold_surrogates(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text


def _check_surrogates(value: Any, where: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _error(where, "half of a surrogate pair (\\ud8..); correct the text") from None


def _error(where: str, problem: str) -> UserError:
    return UserError(f"{where}: {problem}" if where else problem)
