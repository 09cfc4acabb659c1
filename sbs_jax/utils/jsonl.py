"""JSONL files, one reader for all: every mistake is one line that names file and line."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError


def lines(path: str | os.PathLike[str]) -> Iterator[tuple[str, str]]:
    """Streams (``path:number``, text) of a file's lines, split at line feeds only.

    Numbers start at 1; blank lines are counted and skipped; a byte order mark is removed.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                text = _decode(line, where, first=number == 1)
                if text.strip():
                    yield where, text
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


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


def parse_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object in `text`.

    Raises:
        UserError: the text is not JSON, holds what UTF-8 cannot, or is not an object.
    """
    value = parse(text, where)
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected a JSON object")
    return value


def parse(text: str, where: str) -> Any:
    """The JSON value in `text`, of any type.

    Raises:
        UserError: the text is not JSON, nests too deeply, holds a number with too many digits, or
            an escaped half of a surrogate pair, which UTF-8 cannot hold.
    """
    try:
        value = json.loads(text)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply") from None
    except UnicodeEncodeError:
        raise UserError(f"{where}: half of a surrogate pair (\\ud8..); correct the text") from None
    except ValueError as error:  # a number of more digits than Python converts
        raise UserError(f"{where}: not valid JSON ({error})") from None
    return value
