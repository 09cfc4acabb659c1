"""The released archive: same records from folder and zip, and one clear line for a broken one."""

import json
import pathlib
import stat
import tracemalloc
import zipfile

import pytest
from helpers.fixtures_release import (
    TEST,
    TRAIN,
    UNREADABLE_ROW,
    VALIDATION,
    write_release,
    zip_folder,
)

from sbs_jax.datasets.records import Record
from sbs_jax.datasets.release import RELEASED, Release
from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import accuracy


@pytest.fixture
def made(tmp_path: pathlib.Path) -> pathlib.Path:
    return write_release(tmp_path / "made")


def _all(release: Release) -> dict[str, list[Record]]:
    return {
        f"{name}/{split}": list(release.records(name, split))
        for name in release.datasets()
        for split in release.splits(name)
    }


def test_datasets_splits_and_sizes(made: pathlib.Path) -> None:
    release = Release(made)
    assert release.datasets() == ["esnli", "anli1", "cqa", "svamp"]
    assert release.splits("cqa") == ["train", "test"]
    assert {name: len(records) for name, records in _all(release).items()} == {
        **{f"{d}/train": TRAIN for d in RELEASED},
        **{f"{d}/test": TEST for d in RELEASED},
        **{f"{d}/validation": VALIDATION for d in ("esnli", "anli1")},
    }


@pytest.mark.parametrize(
    ("dataset", "record"),
    [
        (
            "cqa",
            Record(
                "cqa-train-21",
                "Where does zorn 21 sleep?\nAnswer Choices:\n(a) mire 21\n(b) dune 21\n"
                "(c) reef 21\n(d) cave 21\n(e) moor 21",
                "reef 21",
                "Zorns 21 like corals.",
                "reef 21",
            ),
        ),
        (
            "svamp",
            Record(
                "svamp-train-21",
                "A zorn has 21 horns and grows 2 more.\nHow many then?",
                "( 21.0 + 2.0 )",
                "It has 21 horns. Then 2 more grow.",
                "(21 + 2)",
            ),
        ),
        (
            "esnli",
            Record(
                "esnli-train-21",
                "Zorn 21 swims.</s>Zorn 21 is wet.",
                "entailment",
                "Swimming zorns 21 are in water.",
                "entailment",
            ),
        ),
        (
            "anli1",
            Record(
                "anli1-train-21",
                "Zorn 21 swims.</s>Zorn 21 is wet.",
                "entailment",
                "Zorn 21 is in water.",
                "entailment",
            ),
        ),
    ],
)
def test_the_last_record_has_the_output_of_the_last_of_eleven_shards(
    made: pathlib.Path, dataset: str, record: Record
) -> None:
    *_, last = Release(made).records(dataset, "train")
    assert last == record


def test_unreadable_completions_are_blank_text(made: pathlib.Path) -> None:
    records = list(Release(made).records("svamp", "train"))
    assert (records[UNREADABLE_ROW].rationale, records[UNREADABLE_ROW].llm_label) == (" ", " ")


@pytest.mark.parametrize("top", ["", "datasets", ".."])
def test_a_folder_may_be_named_at_several_heights(made: pathlib.Path, top: str) -> None:
    assert _all(Release(made / top)) == _all(Release(made))


@pytest.mark.parametrize("height", [".", "datasets", ".."])
def test_a_zip_gives_the_same_records(
    made: pathlib.Path, tmp_path_factory: pytest.TempPathFactory, height: str
) -> None:
    folder = (made / height).resolve()
    path = zip_folder(folder, tmp_path_factory.mktemp("zip") / "made.zip")
    assert _all(Release(path)) == _all(Release(made))


def test_system_files_beside_the_data_do_no_harm(made: pathlib.Path) -> None:
    (made / "__MACOSX" / "datasets" / "cqa").mkdir(parents=True)
    (made / "__MACOSX" / "datasets" / "cqa" / "._cqa_train.json").write_bytes(b"\0\1")
    (made / "datasets" / "cqa" / ".DS_Store").write_bytes(b"\0\1")
    assert len(list(Release(made).records("cqa", "train"))) == TRAIN


def test_absent_datasets_and_files_are_no_error(made: pathlib.Path, tmp_path) -> None:
    release = Release(write_release(tmp_path / "one", "svamp"))
    assert release.datasets() == ["svamp"] and release.splits("cqa") == []
    (made / "datasets" / "esnli" / "esnli_train.json").unlink()
    assert Release(made).splits("esnli") == ["validation", "test"]
    with pytest.raises(UserError, match=r"esnli_train\.json: missing"):
        next(Release(made).records("esnli", "train"))


def test_without_teacher_outputs_records_have_none(made: pathlib.Path) -> None:
    for file in (made / "datasets" / "svamp" / "llm").glob("test_*"):
        file.unlink()
    record = next(Release(made).records("svamp", "test"))
    assert record.rationale is None and record.llm_label is None


def test_gpt_neox_outputs(made: pathlib.Path) -> None:
    folder = made / "datasets" / "gpt-neox" / "svamp"
    folder.mkdir(parents=True)
    said = [f" Zorns again. The answer is ({i} + 2)." for i in range(TEST)]
    (folder / "test.json").write_text(json.dumps(said))
    record = next(Release(made).records("svamp", "test", teacher="gpt-neox"))
    assert (record.rationale, record.llm_label) == ("Zorns again.", "(0 + 2)")


def test_labels_may_be_words_too(made: pathlib.Path) -> None:
    path = made / "datasets" / "esnli" / "esnli_test.json"
    path.write_text(path.read_text().replace('"label": 1', '"label": "neutral"'))
    assert [r.label for r in Release(made).records("esnli", "test")][1] == "neutral"


def test_fingerprint_follows_the_files(made: pathlib.Path) -> None:
    cqa, svamp = Release(made).fingerprint("cqa"), Release(made).fingerprint("svamp")
    path = made / "datasets" / "cqa" / "cqa_test.json"
    path.write_text(path.read_text() + path.read_text())
    assert Release(made).fingerprint("cqa") != cqa
    assert Release(made).fingerprint("svamp") == svamp


# --- the real archive -------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", list(RELEASED))
def test_fields_of_the_original_on_200_test_rows(shared, dataset: str) -> None:
    recorded = json.loads((shared / "vectors" / "tokens.json").read_text())[dataset]
    name = "release" if dataset in ("cqa", "svamp") else "release_sample"
    records = list(Release(shared / "data" / name).records(dataset, "test"))[:200]
    for field in ("input", "label", "rationale", "llm_label"):
        assert [getattr(record, field) for record in records] == recorded[field], field


@pytest.mark.parametrize("case", ["cqa/train", "cqa/test", "svamp/train", "svamp/test"])
def test_teacher_accuracy_of_the_original(shared, release_dir, case: str) -> None:
    recorded = json.loads((shared / "vectors" / "teacher_accuracy.json").read_text())[case]
    dataset, split = case.split("/")
    records = list(Release(release_dir).records(dataset, split))
    strict = accuracy(
        RELEASED[dataset].metric, [r.llm_label for r in records], [r.label for r in records]
    )
    assert strict.n == recorded["n_gold"]
    # The strict evaluator reads no `and`: two answers of svamp's train file fewer.
    assert recorded["correct"] - strict.correct == (2 if case == "svamp/train" else 0)


# --- bad input --------------------------------------------------------------------------------


def _read(source: pathlib.Path, dataset: str = "svamp", split: str = "train") -> list[Record]:
    return list(Release(source).records(dataset, split))


def _edit(folder: pathlib.Path, name: str, old: str, new: str) -> None:
    path = folder / "datasets" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_no_such_archive(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.zip: cannot be read \(No such file"):
        Release(tmp_path / "nothing.zip")


def test_an_archive_of_something_else(tmp_path: pathlib.Path) -> None:
    (tmp_path / "cqa").mkdir()
    with pytest.raises(UserError, match="holds none of esnli, anli1, cqa, svamp"):
        Release(tmp_path)


@pytest.mark.parametrize("kept", [0, 50, 0.5, 0.99])
def test_a_truncated_zip(made: pathlib.Path, tmp_path: pathlib.Path, kept: float) -> None:
    path = zip_folder(made, tmp_path / "made.zip")
    content = path.read_bytes()
    path.write_bytes(content[: kept if kept > 1 else int(kept * len(content))])
    with pytest.raises(UserError, match=r"made\.zip: is no folder and no complete zip file"):
        Release(path)


def test_a_damaged_zip(made: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path = zip_folder(made, tmp_path / "made.zip")
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("datasets/svamp/svamp_train.json")
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    content[start + 20 : start + 60] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"svamp_train\.json: cannot be read .*may be damaged"):
        _read(path)


_ROW = '{"input": "A zorn has 4'
_BROKEN_ROWS = [
    (_ROW, '{"input: "A zorn has 4', "not valid JSON"),
    (_ROW, '["A zorn has 4', "not valid JSON"),
    (_ROW + " horns", "[" * 5000, "not valid JSON"),
    (_ROW, '7\n{"input": "A zorn has 4', "expected a JSON object"),
    ('"label": "( 4.0', '"lable": "( 4.0', "field 'label' is missing"),
    ('"( 4.0 + 2.0 )"', "null", "field 'label' is missing or is not text"),
]


@pytest.mark.parametrize(("old", "new", "message"), _BROKEN_ROWS)
def test_a_broken_row_is_named(made: pathlib.Path, old: str, new: str, message: str) -> None:
    _edit(made, "svamp/svamp_train.json", old, new)
    with pytest.raises(UserError) as error:
        _read(made)
    assert f"svamp_train.json:5: {message}" in str(error.value) and "\n" not in str(error.value)


_BROKEN_SHARDS = [
    ('["It', '["It has", "It', "llm: 23 teacher outputs for the 22 records of svamp_train.json"),
    ('["It', '[7, "It', "train_CoT_3.json: completion 0 is not text"),
    ("[", "", "train_CoT_3.json: not valid JSON"),
    ('["It', '{"a": ["It', "train_CoT_3.json: not valid JSON"),
]


@pytest.mark.parametrize(("old", "new", "message"), _BROKEN_SHARDS)
def test_a_broken_shard_is_named(made: pathlib.Path, old: str, new: str, message: str) -> None:
    _edit(made, "svamp/llm/train_CoT_3.json", old, new)
    with pytest.raises(UserError) as error:
        _read(made)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_shard_that_is_no_list(made: pathlib.Path) -> None:
    (made / "datasets" / "svamp" / "llm" / "train_CoT_0.json").write_text('{"0": "text"}')
    with pytest.raises(UserError, match=r"train_CoT_0\.json: expected a JSON array"):
        _read(made)


@pytest.mark.parametrize(
    ("dataset", "old", "new", "message"),
    [
        ("cqa", '"mire 1", ', "", "cqa_test.json:2: field 'choices' is not a list of 5 texts"),
        ("cqa", '"answer": "reef 1"', '"answer": 3', "cqa_test.json:2: field 'answer'"),
        ("esnli", '"label": 1', '"label": -1', "esnli_test.json:2: field 'label' is not 0, 1 or 2"),
        ("anli1", '"label": 1', '"label": true', "anli1_test.json:2: field 'label' is not 0, 1"),
        ("anli1", '"premise": "Zorn 1', '"x": "Zorn 1', "anli1_test.json:2: field 'premise'"),
    ],
)
def test_a_bad_field_is_named(
    made: pathlib.Path, dataset: str, old: str, new: str, message: str
) -> None:
    _edit(made, f"{dataset}/{dataset}_test.json", old, new)
    with pytest.raises(UserError, match=message):
        _read(made, dataset, "test")


def test_fewer_outputs_than_records(made: pathlib.Path) -> None:
    (made / "datasets" / "svamp" / "llm" / "train_CoT_10.json").unlink()
    with pytest.raises(UserError, match="20 teacher outputs for the 22 records"):
        _read(made)


def test_a_shard_missing_in_the_middle(made: pathlib.Path) -> None:
    (made / "datasets" / "svamp" / "llm" / "train_CoT_4.json").unlink()
    with pytest.raises(UserError, match=r"train_CoT_4\.json: missing between"):
        _read(made)


def test_an_empty_split(made: pathlib.Path) -> None:
    (made / "datasets" / "svamp" / "svamp_train.json").write_text("\n\n")
    with pytest.raises(UserError, match=r"svamp_train\.json: holds no records"):
        _read(made)


def test_a_line_without_end_and_bytes_that_are_no_text(made: pathlib.Path) -> None:
    path = made / "datasets" / "svamp" / "svamp_train.json"
    path.write_bytes(b'{"input": "' + b"x" * 2**21)
    with pytest.raises(UserError, match=r"svamp_train\.json:1: longer than 1048576 bytes"):
        _read(made)
    path.write_bytes(b'{"input": "\xff"}\n')
    with pytest.raises(UserError, match=r"svamp_train\.json:1: not UTF-8"):
        _read(made)


def test_members_that_point_outside_are_never_written(made: pathlib.Path, tmp_path) -> None:
    path = zip_folder(made, tmp_path / "made.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../escaped.json", "{}")
    before = sorted(tmp_path.rglob("*"))
    assert len(_read(path)) == TRAIN
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_a_zip_leads_nowhere(made: pathlib.Path, tmp_path) -> None:
    (tmp_path / "secret").write_text('{"input": "secret", "label": "secret"}')
    (made / "datasets" / "svamp" / "svamp_train.json").unlink()
    path = zip_folder(made, tmp_path / "made.zip")
    link = zipfile.ZipInfo("datasets/svamp/svamp_train.json")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, str(tmp_path / "secret"))
    with pytest.raises(UserError, match=r"svamp_train\.json:1: not valid JSON"):
        _read(path)


def test_a_bomb_in_a_zip_is_not_unpacked(made: pathlib.Path, tmp_path) -> None:
    (made / "datasets" / "svamp" / "svamp_train.json").unlink()
    path = zip_folder(made, tmp_path / "made.zip")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("datasets/svamp/svamp_train.json", bytes(2**26))
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    with pytest.raises(UserError, match=r"svamp_train\.json:1: longer than 1048576 bytes"):
        _read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24


def test_a_member_without_a_name_is_no_dataset(made: pathlib.Path, tmp_path) -> None:
    path = zip_folder(made, tmp_path / "made.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x", "{}")
        archive.infolist()[-1].filename = ""
    assert len(_read(path)) == TRAIN
