"""JSONL files: split at line feeds only, every mistake one line with file and line."""

import gzip
import json
from pathlib import Path

import pytest

from sbs_jax.errors import UserError
from sbs_jax.utils import jsonl


def _write(folder: Path, content: bytes) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(content)
    return path


# What str.splitlines() takes for the end of a line, and JSON allows inside a string.
@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\u0085", "\v", "\f", "\x1c", "\x1d", "\x1e"])
def test_only_a_line_feed_ends_a_line(tmp_path: Path, mark: str) -> None:
    rows = [{"text": f"a{mark}b"}, {"text": mark}]
    # JSON forbids control characters as they are; the others are written as such.
    lines = [json.dumps(row, ensure_ascii=mark < " ") for row in rows]
    path = _write(tmp_path, "\n".join(lines).encode())
    assert [row for _, row in jsonl.objects(path)] == rows


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_ends_and_blank_lines_are_no_rows_but_are_counted(tmp_path: Path, end: bytes) -> None:
    path = _write(tmp_path, b"\xef\xbb\xbf" + b'{"a": 1}\r\n\n   \n{"a": 2}' + end)
    assert list(jsonl.objects(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:4", {"a": 2})]


def test_a_gzip_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = _write(tmp_path, gzip.compress(b'{"a": 1}\n{"a": 2}\n'))
    assert [row["a"] for _, row in jsonl.objects(path)] == [1, 2]


@pytest.mark.parametrize("end", [10, 18, 22])
def test_a_cut_gzip_file_is_named(tmp_path: Path, end: int) -> None:
    path = _write(tmp_path, gzip.compress(b'{"a": 1}\n')[:end])
    with pytest.raises(UserError, match=r"rows.jsonl: damaged gzip file"):
        list(jsonl.objects(path))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"a": ', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1} {"a": 2}', "not valid JSON"),
        (b'{"a": "tab\there"}', "not valid JSON"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b'{"a": "\\ud83d"}', "half of a surrogate pair"),
        (b'{"a": "\\uDC00 x"}', "half of a surrogate pair"),
        (b'{"\\ud83d": 1}', "half of a surrogate pair"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": "\xed\xa0\xbd"}', "not UTF-8"),
        (b"[1, 2]", "expected a JSON object on each line, not an array"),
        (b'"text"', "expected a JSON object on each line"),
        (b"9" * 5000, "expected a JSON object on each line"),
    ],
    ids=lambda value: value[:12] if isinstance(value, bytes) else None,
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, line: bytes, problem: str) -> None:
    path = _write(tmp_path, b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(UserError) as caught:
        list(jsonl.objects(path))
    assert str(caught.value).startswith(f"{path}:2: ")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_whole_surrogate_pair_and_a_huge_number_are_read(tmp_path: Path) -> None:
    path = _write(tmp_path, b'{"a": "\\ud83d\\ude00", "n": ' + b"9" * 5000 + b"}\n")
    assert list(jsonl.objects(path)) == [(f"{path}:1", {"a": "\U0001f600", "n": "9" * 5000})]


def test_fields_that_are_not_used_are_not_looked_at() -> None:
    line = '{"a": "x", "b": "\\ud83d", "c": ' + "9" * 5000 + "}"
    assert jsonl.parse_object(line, "f:1", fields=("a",))["a"] == "x"
    with pytest.raises(UserError, match="f:1: half of a surrogate"):
        jsonl.parse_object(line, "f:1", fields=("a", "b"))


def test_a_torn_last_line_is_skipped_where_the_file_is_still_written(tmp_path: Path) -> None:
    path = _write(tmp_path, b'{"a": 1}\n{"a"')
    assert [row for _, row in jsonl.objects(path, still_written=True)] == [{"a": 1}]
    path = _write(tmp_path, b'{"a"\n{"a": 1}\n')
    with pytest.raises(UserError, match=r"rows\.jsonl:1"):
        list(jsonl.objects(path, still_written=True))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(UserError, match=f"{path}: cannot be read"):
            list(jsonl.objects(path))


@pytest.mark.parametrize(
    ("line", "fields", "field"),
    [
        ('{"label": "yes", "label": "no"}', None, "label"),
        ('{"id": 1, "label": "a", "id": 2}', ("id", "label"), "id"),
        ('{"label": null, "x": 1, "label": "no"}', ("label",), "label"),
        ('{"x": 1, "x": 2, "label": "no"}', ("label",), None),  # a field not in use
        ('{"label": "label", "input": "a \\"label\\" b"}', None, None),
        ('{"label": "no", "more": {"label": 1}}', None, None),
    ],
)
def test_a_field_that_is_given_twice_is_refused(line, fields, field):
    if field is None:
        assert jsonl.parse_object(line, "f:3", fields)["label"] in ("no", "label")
        return
    with pytest.raises(UserError, match=f"f:3: field '{field}' is given twice"):
        jsonl.parse_object(line, "f:3", fields)
