"""Files of a data folder: complete or absent, written once, counted on the way."""

import pathlib

import pytest
from helpers.fixtures_release import TEST, TRAIN, VALIDATION, write_release

from sbs_jax.datasets import prepare
from sbs_jax.datasets.records import Record, read_jsonl
from sbs_jax.datasets.release import Release
from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Accuracy


@pytest.fixture
def release(tmp_path: pathlib.Path) -> Release:
    return Release(write_release(tmp_path / "made"))


def test_the_files_hold_the_records_in_their_order(release: Release, tmp_path) -> None:
    done = prepare.from_release(release, "cqa", tmp_path / "D")
    assert set(done.files) == {"train", "test"}
    for split in done.files:
        written = list(read_jsonl(tmp_path / "D" / "cqa" / f"{split}.jsonl"))
        assert written == list(release.records("cqa", split))


def test_counts_of_the_teacher(release: Release, tmp_path: pathlib.Path) -> None:
    files = prepare.from_release(release, "svamp", tmp_path).files
    # one completion without answer, one with a wrong one
    assert files["train"].teacher == Accuracy(TRAIN - 2, TRAIN) and files["train"].unparsed == 1
    assert files["test"].teacher == Accuracy(TEST - 1, TEST) and files["test"].unparsed == 0


def test_split_sizes_take_validation_out_of_train(release: Release, tmp_path) -> None:
    cqa = prepare.from_release(release, "cqa", tmp_path)
    assert cqa.split_sizes() == {"train": TRAIN - 3, "validation": 3, "test": TEST}
    nli = prepare.from_release(release, "anli1", tmp_path)
    assert nli.split_sizes() == {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def _stamps(folder: pathlib.Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_the_same_source_is_not_read_again(release: Release, tmp_path: pathlib.Path) -> None:
    first = prepare.from_release(release, "cqa", tmp_path)
    before = _stamps(tmp_path / "cqa")
    assert prepare.from_release(release, "cqa", tmp_path) == first
    assert _stamps(tmp_path / "cqa") == before


@pytest.mark.parametrize("damage", ["file", "summary", "gone"])
def test_a_folder_that_was_touched_is_written_again(
    release: Release, tmp_path: pathlib.Path, damage: str
) -> None:
    first = prepare.from_release(release, "cqa", tmp_path)
    folder = tmp_path / "cqa"
    if damage == "gone":
        (folder / "test.jsonl").unlink()
    else:
        (folder / {"file": "test.jsonl", "summary": "source.json"}[damage]).write_text("{")
    assert prepare.from_release(release, "cqa", tmp_path) == first
    assert len(list(read_jsonl(folder / "test.jsonl"))) == TEST


def test_another_source_or_teacher_is_written_anew(release: Release, tmp_path) -> None:
    prepare.from_release(release, "anli1", tmp_path / "D")
    other = Release(write_release(tmp_path / "other"))
    path = tmp_path / "other" / "datasets" / "anli1" / "anli1_valid.json"
    path.unlink()
    done = prepare.from_release(Release(tmp_path / "other"), "anli1", tmp_path / "D")
    assert set(done.files) == {"train", "test"}
    assert not (tmp_path / "D" / "anli1" / "validation.jsonl").exists()
    neox = prepare.from_release(other, "cqa", tmp_path / "D", teacher="gpt-neox")
    assert neox.files["train"].teacher is None


def test_an_interrupted_run_changes_nothing(tmp_path: pathlib.Path) -> None:
    def broken():
        yield Record("1", "new", "y")
        raise KeyboardInterrupt

    old = {split: lambda: [Record("0", "old", "y")] for split in ("train", "test")}
    prepare.write(tmp_path / "d", "old", old, "text")
    before = {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()}
    assert set(before) == {"train.jsonl", "test.jsonl", "source.json"}
    new = {"train": lambda: [Record("0", "new", "y")], "test": broken}
    with pytest.raises(KeyboardInterrupt):
        prepare.write(tmp_path / "d", "new", new, "text")
    assert {path.name: path.read_bytes() for path in (tmp_path / "d").iterdir()} == before


def test_a_folder_that_cannot_be_written(release: Release, tmp_path: pathlib.Path) -> None:
    (tmp_path / "cqa").write_text("")
    with pytest.raises(UserError, match=r"cqa.*: cannot be written"):
        prepare.from_release(release, "cqa", tmp_path)
