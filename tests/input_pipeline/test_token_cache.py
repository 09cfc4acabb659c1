"""Prepared token tables: contents, cache keys, two processes at once, and what is reported."""

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from sbs_jax.datasets import registry
from sbs_jax.datasets.methods import VIEWS, Prefixes
from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.datasets.registry import Dataset
from sbs_jax.datasets.sources import Function, JsonlFolder
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import token_cache, vocabularies
from sbs_jax.input_pipeline.token_cache import TokenTable

BYTES = vocabularies.load("bytes")
LENGTHS = {"inputs": 64, "targets": 16}
RECORDS = [
    Record("a", "one</s>two", "yes", "because", "no"),
    Record("b/ü", "x" * 100, "long label of thirty characters", " ", " "),
    Record("c", "", "y"),
]


@pytest.fixture
def dataset(tmp_path: pathlib.Path) -> Dataset:
    folder = tmp_path / "data"
    write_jsonl(folder / "train.jsonl", RECORDS)
    return Dataset("tiny", JsonlFolder("tiny", lambda: folder, "put it there"))


@pytest.fixture
def prepare(dataset: Dataset, tmp_path: pathlib.Path) -> Callable[..., TokenTable]:
    def prepare(view: str = "label", **changes: object) -> TokenTable:
        arguments = {
            "dataset": dataset,
            "file_split": "train",
            "view": VIEWS[view],
            "vocabulary": BYTES,
            "lengths": LENGTHS,
            "prefixes": Prefixes(),
            "cache_dir": tmp_path / "cache",
        }
        return token_cache.prepare(**{**arguments, **changes})

    return prepare


def _ids(text: str) -> list[int]:
    return BYTES.encode(text)


def test_a_table_holds_the_files_rows_in_order(prepare: Callable) -> None:
    table = prepare("rationale")
    assert (table.n, list(table.ids)) == (3, ["a", "b/ü", "c"])
    first = table.inputs(0)
    assert first.dtype == np.int32
    assert first.tolist() == [*_ids("[rationale] one"), 1, *_ids("two"), 1]
    assert table.targets(0).tolist() == [*_ids("because"), 1]
    assert table.inputs(2).tolist() == [*_ids("[rationale] "), 1]


def test_a_row_without_a_target_keeps_its_inputs(prepare: Callable) -> None:
    table = prepare("rationale")
    assert table.target_lengths.tolist() == [8, 0, 0]
    assert table.targets(1).tolist() == []
    assert table.missing == 2
    assert len(table.inputs(1)) == 64


def test_a_long_sequence_is_cut_and_keeps_its_eos(prepare: Callable) -> None:
    table = prepare("label")
    assert table.inputs(1).tolist() == [*_ids("[label] " + "x" * 55), 1]
    assert table.targets(1).tolist() == [*_ids("long label of t"), 1]
    for name in ("inputs", "targets"):
        assert table.truncated[name].tolist() == [False, True, False]
    assert table.input_lengths.tolist() == [16, 64, 9]
    assert table.target_lengths.tolist() == [4, 16, 2]
    exact = prepare("label", lengths={"inputs": 109, "targets": 32, "targets_task": 32})
    assert not any(flags.any() for flags in exact.truncated.values())


def test_rows_outside_the_table_are_refused(prepare: Callable) -> None:
    for row in (-1, 3):
        with pytest.raises(IndexError):
            prepare().inputs(row)


def test_what_was_left_out_and_cut_is_told_once(
    prepare: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare("rationale")
    told = capsys.readouterr().err
    assert told == (
        "tiny/train rationale: 3 records, 2 without a target are left out, "
        "1 inputs truncated to 64 tokens\n"
    )
    prepare("rationale")
    assert capsys.readouterr().err == ""


def test_many_chunks_equal_one(prepare: Callable, tmp_path: pathlib.Path) -> None:
    count = 2 * 4096 + 17
    many = [
        Record(str(i), f"question {i}", f"{i}", None if i % 3 else f"r{i}") for i in range(count)
    ]
    dataset = Dataset("many", Function("many", lambda split: many))
    table = prepare("rationale", dataset=dataset)
    assert (table.n, table.missing) == (count, sum(1 for i in range(count) if i % 3))
    for row in (0, 1, 4095, 4096, 8191, 8192, count - 1):
        assert BYTES.decode(table.inputs(row).tolist()) == f"[rationale] question {row}"
        assert BYTES.decode(table.targets(row).tolist()) == ("" if row % 3 else f"r{row}")
        assert table.ids[row] == str(row)


def test_tokens_are_mapped_not_loaded(prepare: Callable) -> None:
    table = prepare()
    assert isinstance(table._inputs._values.base, np.memmap)
    assert table._inputs._values.dtype == np.uint16


def test_large_vocabularies_get_wider_ids(prepare: Callable) -> None:
    class Wide(vocabularies.ByteVocabulary):
        size = 250112
        fingerprint = "wide"

        def encode(self, text: str) -> list[int]:
            return [200_000 + i for i in super().encode(text)]

    assert prepare(vocabulary=Wide()).inputs(2)[0] == 200_000 + ord("[") + 3


# --- the cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"view": "llm_label"},
        {"vocabulary": vocabularies.load("demo")},
        {"lengths": {"inputs": 63, "targets": 16}},
        {"lengths": {"inputs": 64, "targets": 15}},
        {"prefixes": Prefixes("predict: ", "explain: ")},
    ],
    ids=["view", "vocabulary", "inputs", "targets", "prefix"],
)
def test_everything_that_changes_tokens_is_in_the_key(prepare: Callable, changes: dict) -> None:
    assert prepare(**changes).folder != prepare().folder


def test_what_changes_no_token_is_not_in_the_key(prepare: Callable) -> None:
    other = prepare(prefixes=Prefixes(rationale="why: "), lengths={**LENGTHS, "targets_task": 16})
    assert other.folder == prepare().folder


def test_a_table_is_made_once_and_again_when_the_source_changes(
    prepare: Callable, dataset: Dataset
) -> None:
    before = prepare()
    stamp = (before.folder / "inputs.npy").stat().st_mtime_ns
    assert (prepare().folder / "inputs.npy").stat().st_mtime_ns == stamp
    write_jsonl(dataset.source.folder() / "train.jsonl", [*RECORDS, Record("d", "new", "z")])
    after = prepare()
    assert after.folder != before.folder
    assert after.n == 4
    assert BYTES.decode(after.targets(3).tolist()) == "z"


def test_no_tensorflow_is_needed(dataset: Dataset, tmp_path: pathlib.Path) -> None:
    folder = dataset.source.folder()
    code = f"""
import sys
for name in ("tensorflow", "seqio", "jax"):
    sys.modules[name] = None
from sbs_jax import datasets, tokens, views, vocabularies
dataset = datasets.add_dataset("alone", records={str(folder)!r})
table = tokens.prepare(dataset, "train", views.VIEWS["label"], vocabularies.load("demo"),
                       {LENGTHS!r}, views.Prefixes(), {str(tmp_path / "cache")!r})
print(table.n)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"


def test_two_processes_at_once_end_with_one_whole_table(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "data"
    write_jsonl(
        folder / "train.jsonl",
        [Record(str(i), f"a question {i}", f"answer {i}") for i in range(20000)],
    )
    code = f"""
from sbs_jax import datasets, tokens, views, vocabularies
dataset = datasets.add_dataset("shared", records={str(folder)!r})
table = tokens.prepare(dataset, "train", views.VIEWS["label"], vocabularies.load("bytes"),
                       {LENGTHS!r}, views.Prefixes(), {str(tmp_path / "cache")!r})
assert table.n == 20000
print(table.folder, table.targets(19999).tolist())
"""
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    told = [process.communicate(timeout=120) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], told
    (out,) = {out for out, _ in told}
    assert out.endswith(f"{[*_ids('answer 19999'), 1]}\n")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_preparation_that_fails_leaves_nothing(prepare: Callable, tmp_path: pathlib.Path) -> None:
    def read(split: str) -> Iterator[Record]:
        yield from RECORDS
        raise UserError("data.jsonl:4: broken")

    class Broken(Function):
        def count(self, split: str) -> int:
            return 4

        def fingerprint(self, split: str) -> str:
            return "broken"

    with pytest.raises(UserError, match=r"data\.jsonl:4: broken"):
        prepare(dataset=Dataset("broken", Broken("broken", read)))
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_preparation_left_is_removed(
    prepare: Callable, tmp_path: pathlib.Path
) -> None:
    import os
    import shutil

    folder = prepare().folder
    shutil.rmtree(folder)
    for name, age in (("old", 7200), ("young", 60)):
        left = folder.with_name(f".{folder.name}.{name}")
        left.mkdir()
        (left / "inputs.npy").write_bytes(b"x")
        for path in (left / "inputs.npy", left):
            os.utime(path, (time.time() - age, time.time() - age))
    prepare()
    assert {p.name for p in (tmp_path / "cache").iterdir()} == {
        folder.name,
        f".{folder.name}.young",
    }


def test_a_damaged_table_is_named(prepare: Callable) -> None:
    folder = prepare().folder
    content = (folder / "inputs.npy").read_bytes()
    (folder / "inputs.npy").write_bytes(content[:-10])
    with pytest.raises(UserError, match=f"{folder}: damaged .*delete this folder"):
        prepare()


def test_a_cache_that_cannot_be_written_is_named(prepare: Callable, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="file: prepared tokens cannot be written"):
        prepare(cache_dir=tmp_path / "file")


# --- refusals -------------------------------------------------------------------------------------


def test_an_empty_file_is_refused(prepare: Callable, dataset: Dataset) -> None:
    (dataset.source.folder() / "train.jsonl").write_text("\n")
    with pytest.raises(UserError, match="tiny/train: the split is empty"):
        prepare()


def test_training_needs_a_target(prepare: Callable, dataset: Dataset) -> None:
    write_jsonl(dataset.source.folder() / "train.jsonl", [Record("1", "x", "y")])
    assert prepare("pinto").missing == 1  # to ask without gold is no mistake
    with pytest.raises(UserError, match="tiny_pinto: no train record has a teacher's rationale"):
        prepare("pinto", targets_needed=True)
    assert prepare("label", targets_needed=True).missing == 0


def test_asdiv_says_where_annotations_go(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable
) -> None:
    import sbs_jax.tasks  # noqa: F401

    monkeypatch.setenv("SBS_DATA_DIR", str(tmp_path))
    write_jsonl(tmp_path / "asdiv" / "train.jsonl", [Record("1", "x", "9")])
    asdiv = registry.get("asdiv")
    assert prepare("label", dataset=asdiv, targets_needed=True).n == 1
    with pytest.raises(UserError, match=r"asdiv_rationale: .*put .*asdiv/annotations.jsonl.*id"):
        prepare("rationale", dataset=asdiv, targets_needed=True)


def test_meta_names_what_the_table_was_made_of(prepare: Callable) -> None:
    meta = json.loads((prepare().folder / "meta.json").read_text())
    assert meta["dataset"] == "tiny"
    assert meta["prefix"] == "[label] "
    assert meta["vocabulary"] == BYTES.fingerprint
    assert meta["n"] == 3
