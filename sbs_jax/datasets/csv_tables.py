"""Reads rows of CSV and TSV files, as spreadsheets and pandas write them."""

import csv
import io
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.utils import jsonl

MAX_CELL = 2**27  # characters of a cell; the csv module's limit is 2**17

_EXCELS_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


def reader(lines: Iterable[str], delimiter: str | None = None) -> tuple[Any, int]:
    """(A csv.reader whose first row is the header, lines before it).

    Args:
        lines: with their ends.
        delimiter: of the cells; None finds it: what Excel's first line ``sep=;`` names, else the
            comma, or, in a header without one, the semicolon or tab.
    """
    csv.field_size_limit(MAX_CELL)
    lines = iter(lines)
    first = next(lines, "")
    if named := _EXCELS_LINE.fullmatch(first):
        return csv.reader(lines, delimiter=named[1], strict=True), 1
    detected = next((mark for mark in ",;\t" if mark in first), ",")
    all_lines = itertools.chain([first], lines)
    return csv.reader(all_lines, delimiter=delimiter or detected, strict=True), 0


def separated(delimiter: str | None) -> Callable[[str], Iterator[tuple[str, dict[str, Any]]]]:
    """A reader of such tables: path -> (place, row). It raises UserError, naming the line."""

    def rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with jsonl.opened(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            cells, line = None, 0
            try:
                cells, before = reader(text, delimiter)
                yield from _cells(path, cells, before)
            except csv.Error as error:
                line = cells.line_num + before if cells else 1
                raise UserError(f"{path}:{line}: not valid CSV ({error})") from None
            except UnicodeDecodeError:
                line = cells.line_num + before + 1 if cells else 1
                raise UserError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from None

    return rows


def _cells(path: str, cells: Any, before: int) -> Iterator[tuple[str, dict[str, Any]]]:
    header: list[str] = next(cells, [])
    if not header or len(set(header)) < len(header):
        raise UserError(
            f"{path}:{before + 1}: the header must name every column, none twice; has {header}"
        )
    start = cells.line_num + before + 1
    for row in cells:
        if row and len(row) != len(header):
            raise UserError(f"{path}:{start}: {len(row)} cells under {len(header)} columns")
        if row:
            yield f"{path}:{start}", dict(zip(header, row, strict=True))
        start = cells.line_num + before + 1
