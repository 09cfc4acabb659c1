"""Records: ids name one record of a file, and every mistake names file, line and field."""

import json
from pathlib import Path

import pytest

from sbs_jax.datasets.records import Record, read_jsonl, read_table, write_jsonl
from sbs_jax.errors import UserError


def _write(folder: Path, *rows: object) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _row(**fields: object) -> dict[str, object]:
    return {"input": "q", "label": "a", **fields}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    records = [
        Record("1", "a\u2028b", "c", "why\n", " "),
        Record("x", "\U0001f600</s>", "", None, "d"),
    ]
    assert write_jsonl(tmp_path / "deep" / "r.jsonl", records) == 2
    assert list(read_jsonl(tmp_path / "deep" / "r.jsonl")) == records


def test_an_id_is_text_a_whole_number_or_the_line_number(tmp_path: Path) -> None:
    path = _write(tmp_path, _row(id="x"), _row(id=7), _row(), _row(id=10**30))
    assert [record.id for record in read_jsonl(path)] == ["x", "7", "3", str(10**30)]


@pytest.mark.parametrize(
    "rows",
    [
        [_row(id="x"), _row(id="y"), _row(id="x")],
        [_row(id=1), _row(id=2), _row(id="1")],
        [_row(id="3"), _row(), _row()],  # two line numbers and an id that looks like one
        [_row(id="x", label="b"), _row(id=5), _row(id="x", input="another")],
        [_row(id=" "), _row(id=5), _row(id=" ")],
    ],
)
def test_an_id_that_two_lines_have_is_refused_with_both(tmp_path: Path, rows: list) -> None:
    path = _write(tmp_path, *rows)
    with pytest.raises(UserError, match=rf"{path}:3: repeated id '.+', also in {path}:1"):
        list(read_jsonl(path))


@pytest.mark.parametrize("bad", [None, 1.0, True, "", [1], {"a": 1}])
def test_another_id_is_refused(tmp_path: Path, bad: object) -> None:
    path = _write(tmp_path, _row(), _row(id=bad))
    with pytest.raises(UserError, match=rf"{path}:2: field 'id' is "):
        list(read_jsonl(path))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"input": None}, "'input'"),
        ({"label": None}, "'label'"),
        ({"label": 1}, "'label'"),
        ({"label": ["a"]}, "'label'"),
        ({"rationale": 3}, "'rationale'"),
        ({"llm_label": {}}, "'llm_label'"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, fields: dict, named: str) -> None:
    path = _write(tmp_path, _row(), _row(**fields))
    with pytest.raises(UserError, match=rf"{path}:2: field {named}"):
        list(read_jsonl(path))


def test_only_a_teachers_question_needs_no_label(tmp_path: Path) -> None:
    path = _write(tmp_path, _row(), {"input": "q"}, _row(label=None))
    assert [(record.id, record.label) for record in read_table(path)] == [
        ("1", "a"),
        ("2", ""),
        ("3", ""),
    ]
    with pytest.raises(UserError, match=rf"{path}:2: field 'label' is missing"):
        list(read_jsonl(path))
    with pytest.raises(UserError, match=rf"{path}:1: field 'label' is missing or is not text"):
        list(read_table(_write(tmp_path, _row(label=1))))


@pytest.mark.parametrize("field", ["input", "label", "rationale", "llm_label", "id"])
def test_half_a_surrogate_pair_is_refused_where_it_is_used(tmp_path: Path, field: str) -> None:
    path = _write(tmp_path, _row(), _row(note="\ud83d"))
    assert len(list(read_jsonl(path))) == 2
    path = _write(tmp_path, _row(), _row(**{field: "x\ud83d"}))
    with pytest.raises(UserError, match=rf"{path}:2: half of a surrogate"):
        list(read_jsonl(path))
