"""Teacher outputs in a separate file join the record they were made for, or are refused."""

import json
from pathlib import Path

import pytest

from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.datasets.sources import JsonlFolder
from sbs_jax.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> JsonlFolder:
    """Three splits whose records have line numbers for ids."""
    for split, count in {"train": 2, "validation": 1, "test": 2}.items():
        rows = [{"input": f"{split} {i}", "label": "a"} for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return JsonlFolder("mine", lambda: tmp_path, "put it there", "annotations.jsonl")


def _annotate(source: JsonlFolder, *rows: dict) -> None:
    path = source.folder() / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rationales(source: JsonlFolder, split: str) -> list[str | None]:
    return [record.rationale for record in source.read(split)]


def test_outputs_with_a_split_join_that_split_alone(source: JsonlFolder) -> None:
    _annotate(
        source,
        {"split": "test", "id": "1", "rationale": "of test 1", "label": "a"},
        {"split": "train", "id": 2, "rationale": "of train 2", "label": "b"},
    )
    assert _rationales(source, "train") == [None, "of train 2"]
    assert _rationales(source, "validation") == [None]
    assert _rationales(source, "test") == ["of test 1", None]
    assert [record.llm_label for record in source.read("train")] == [None, "b"]


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_id_of_several_splits_needs_a_split(source: JsonlFolder, split: str) -> None:
    _annotate(source, {"id": "1", "rationale": "of which?"})
    with pytest.raises(UserError, match=r"annotations.jsonl:1: id '1' is in .*field split"):
        list(source.read(split))


def test_an_id_of_one_split_needs_none(source: JsonlFolder) -> None:
    write_jsonl(source.folder() / "test.jsonl", [Record("t1", "q", "a"), Record("t2", "q", "a")])
    write_jsonl(source.folder() / "validation.jsonl", [Record("v1", "q", "a")])
    _annotate(source, {"id": "t2", "rationale": "x"}, {"id": 1, "rationale": "y"})
    assert _rationales(source, "test") == [None, "x"]
    assert _rationales(source, "train") == ["y", None]


def test_the_name_of_another_file_is_no_split(source: JsonlFolder) -> None:
    write_jsonl(source.folder() / "test.jsonl", [Record("t1", "q", "a")])
    _annotate(source, {"split": "all_questions", "id": "t1", "rationale": "x"})
    assert _rationales(source, "test") == ["x"]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"rationale": "x"}], r":1: expected .* with id"),
        ([{"id": None, "rationale": "x"}], r":1: field 'id' is null"),
        ([{"id": 1.5, "rationale": "x"}], r":1: field 'id' is 1.5"),
        ([{"id": "a", "rationale": 3}], r":1: field 'rationale' must be text"),
        ([{"id": "a", "split": 1}], r":1: field 'split' must be text"),
        ([{"id": "a"}, {"id": "b"}, {"id": "a"}], r":3: repeated id 'a', also in .*:1"),
        (
            [{"id": 1, "split": "test"}, {"id": "1", "split": "test"}],
            r":2: repeated id '1', also in .*:1",
        ),
    ],
)
def test_wrong_outputs_are_named(source: JsonlFolder, rows: list[dict], problem: str) -> None:
    _annotate(source, *rows)
    with pytest.raises(UserError, match=f"annotations.jsonl{problem}"):
        list(source.read("train"))


def test_a_missing_file_names_what_lies_there(source: JsonlFolder) -> None:
    (source.folder() / "train.jsonl").rename(source.folder() / "train.parquet")
    with pytest.raises(UserError, match=r"train.jsonl is missing \(train.parquet is not read"):
        source.count("train")
