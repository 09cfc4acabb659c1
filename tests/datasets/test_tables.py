"""Tables of any common format give the same rows; mistakes name file and row."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from sbs_jax.datasets import tables
from sbs_jax.errors import UserError

ROWS = [
    {"q": "one, two", "a": "yes"},
    {"q": 'say "hi"\nagain', "a": "no"},
    {"q": "u\u2028v \U0001f600", "a": ""},
]


def _jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def _array() -> bytes:
    return json.dumps(ROWS, indent=1).encode()


def _separated(delimiter: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["q", "a"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode("utf-8-sig")


def _parquet() -> bytes:
    content = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), content)
    return content.getvalue()


def _arrow(writer: Callable) -> bytes:
    content = io.BytesIO()
    table = pyarrow.Table.from_pylist(ROWS)
    with writer(content, table.schema) as stream:
        stream.write_table(table)
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jsonl", _jsonl()),
        ("t.json", _jsonl()),
        ("t.json", _array()),
        ("t", b"\xef\xbb\xbf \n" + _array()),
        ("t.csv", _separated(",")),
        ("T.CSV", _separated(",")),
        ("t.tsv", _separated("\t")),
        ("t.csv", _separated(";")),
        ("t.csv", _separated("\t")),
        ("t.csv", b"\xef\xbb\xbfsep=;\r\n" + _separated(";")[3:]),
        ("t.csv", b'"sep=|"\n' + _separated("|")[3:]),
        ("t.arrow", _arrow(pyarrow.ipc.new_stream)),
        ("t.feather", _arrow(pyarrow.ipc.new_file)),
        ("t.parquet", _parquet()),
        ("t.jsonl.gz", gzip.compress(_jsonl(), mtime=0)),
        ("t.json.gz", gzip.compress(_array(), mtime=0)),
        ("t.csv.gz", gzip.compress(_separated(","), mtime=0)),
        ("packed.jsonl", gzip.compress(_jsonl(), mtime=0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert [row for _, row in tables.rows(str(path))] == ROWS


def test_a_saved_dataset_is_read_in_the_order_of_its_parts(tmp_path: Path) -> None:
    for number, part in enumerate((ROWS[:2], ROWS[2:])):
        table = pyarrow.Table.from_pylist(part)
        name = tmp_path / f"data-0000{number}-of-00002.arrow"
        with pyarrow.ipc.new_stream(str(name), table.schema) as stream:
            stream.write_table(table)
    assert [row for _, row in tables.rows(str(tmp_path))] == ROWS


def _saved(folder: Path, name: str, rows: list[dict]) -> None:
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(str(folder / name), table.schema) as stream:
        stream.write_table(table)


@pytest.mark.parametrize("with_state", [True, False])
def test_what_map_cached_in_a_saved_dataset_is_not_read(tmp_path: Path, with_state: bool) -> None:
    _saved(tmp_path, "data-00000-of-00001.arrow", ROWS[:1])
    _saved(tmp_path, "cache-1bd9a3.arrow", ROWS[1:])
    if with_state:
        _saved(tmp_path, "tmp0x.arrow", ROWS[1:])
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (tmp_path / "state.json").write_text(json.dumps(state))
    assert [row for _, row in tables.rows(str(tmp_path))] == ROWS[:1]


@pytest.mark.parametrize("state", ["{}", '{"_data_files": 3}', '{"_data_files": [1]}', "{", "[]"])
def test_a_saved_dataset_with_a_damaged_state_is_refused(tmp_path: Path, state: str) -> None:
    _saved(tmp_path, "data-00000-of-00001.arrow", ROWS[:1])
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(UserError, match=r"state.json: "):
        list(tables.rows(str(tmp_path)))


def test_a_missing_part_of_a_saved_dataset_is_named(tmp_path: Path) -> None:
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match=r"cannot be read \(.*data-00000-of-00001.arrow"):
        list(tables.rows(str(tmp_path)))


def test_a_long_cell_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("q,a\n" + "x" * 300_000 + ",yes\n")
    assert [len(row["q"]) for _, row in tables.rows(str(path))] == [300_000]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.csv", b"q,a\nx,y\nx\n", r"t.csv:3: 1 cells under 2 columns"),
        ("t.csv", b'q,a\n"two\nlines",y\nx,y,z\n', r"t.csv:4: 3 cells under 2 columns"),
        ("t.csv", b"q,q\nx,y\n", r"t.csv:1: the header"),
        ("t.csv", b"", r"t.csv:1: the header"),
        ("t.csv", b'q,a\n"x,y\n', r"t.csv:\d: not valid CSV"),
        ("t.csv", b"q,a\nx,\xff\n", r"t.csv:\d: not UTF-8"),
        ("t.jsonl", b'{"q": 1}\n{"q"\n', r"t.jsonl:2: not valid JSON"),
        ("t.json", b"[1, 2]", r"t.json: item 1 is no JSON object"),
        ("t.json", b'[{"q": 1}', r"t.json: not valid JSON"),
        ("t.parquet", b"PAR1 no", r"t.parquet: cannot be read"),
        ("t.csv.gz", gzip.compress(b"q,a\nx,y\n", mtime=0)[:-6], r"t.csv.gz: damaged gzip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_name_the_place(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        list(tables.rows(str(tmp_path / name)))


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: None], ids=["empty folder", "absent"])
def test_what_holds_no_table_is_named(tmp_path: Path, make: Callable) -> None:
    path = tmp_path / "there"
    make(path)
    with pytest.raises(UserError, match=r"there: (holds no .arrow file|cannot be read)"):
        list(tables.rows(str(path)))


def _classes(names: object, values: list) -> pyarrow.Table:
    """A table whose column `a` Hugging Face datasets stores as numbers of classes."""
    features = {"q": {"dtype": "string", "_type": "Value"}, "a": {"_type": "ClassLabel"}}
    features["a"]["names"] = names
    note = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pyarrow.schema([("q", pyarrow.string()), ("a", pyarrow.int64())], metadata=note)
    return pyarrow.table({"q": ["x"] * len(values), "a": values}, schema=schema)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 1, 0], ["no", "yes", "no"]),
        ([1, -1], ["yes", None]),  # a test split without labels
        ([None, 1], [None, "yes"]),
        ([5], [5]),
        ([], []),
    ],
)
def test_classes_come_as_their_names(tmp_path: Path, values: list, expected: list) -> None:
    table = _classes(["no", "yes"], values)
    parquet.write_table(table, tmp_path / "t.parquet")
    with pyarrow.ipc.new_stream(str(tmp_path / "data-0.arrow"), table.schema) as stream:
        stream.write_table(table)
    for path in (tmp_path / "t.parquet", tmp_path):
        assert [row["a"] for _, row in tables.rows(str(path))] == expected


@pytest.mark.parametrize("noted", [False, True])
def test_a_column_of_json_comes_as_what_it_says(tmp_path: Path, noted: bool) -> None:
    """datasets 5 writes mixed labels so (findings/datasets_mixed_labels.sh)."""
    stored = ["1.50", '"yes"', "3", "true", '""', "null", None, "yes"]
    table = pyarrow.table({"a": pyarrow.array(stored, pyarrow.json_())})
    if noted:  # as an older pyarrow hands it on
        note = {"huggingface": json.dumps({"info": {"features": {"a": {"_type": "Json"}}}})}
        table = pyarrow.table({"a": stored}).replace_schema_metadata(note)
    parquet.write_table(table, tmp_path / "t.parquet")
    expected = ["1.50", "yes", "3", "true", "", None, None, "yes"]
    assert [row["a"] for _, row in tables.rows(str(tmp_path / "t.parquet"))] == expected


@pytest.mark.parametrize(
    "note", [b"", b"[]", b"{", b'{"info": null}', b'{"info": {"features": 3}}']
)
def test_a_note_of_another_library_changes_nothing(tmp_path: Path, note: bytes) -> None:
    table = pyarrow.table({"a": [0, 1]}).replace_schema_metadata({b"huggingface": note})
    parquet.write_table(table, tmp_path / "t.parquet")
    assert [row["a"] for _, row in tables.rows(str(tmp_path / "t.parquet"))] == [0, 1]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    table = pyarrow.table([["x"], ["yes"], ["no"]], names=["q", "a", "a"])
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match="column 'a' is there twice"):
        list(tables.rows(str(tmp_path / "t.parquet")))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "q,a\nx,y\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("t.jsonl", '{"q": "x"}\n'.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ("t.xlsx", b"PK\x03\x04....", "Excel workbook or a ZIP archive; save it as CSV"),
        ("t.xls", b"\xd0\xcf\x11\xe0...", "Excel workbook; save it as CSV"),
        ("t.jsonl.bz2", b"BZh91AY", "bzip2; unpack it"),
        ("t.jsonl.zst", b"\x28\xb5\x2f\xfd..", "zstd; unpack it"),
        ("t.json", b"PAR1....", "Parquet file; let its name end in .parquet"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}: is .*{said}"):
        list(tables.rows(str(tmp_path / name)))
