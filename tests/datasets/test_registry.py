"""The registry, where records come from, and which rows make up a split."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import sbs_jax.tasks  # noqa: F401
from sbs_jax.datasets import registry, release, splits
from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.datasets.registry import Dataset, add_dataset
from sbs_jax.errors import UserError
from sbs_jax.utils import paths


def _records(count: int, start: int = 0) -> list[Record]:
    return [
        Record(str(i), f"question {i}", f"label {i}", f"because {i}", f"guess {i}")
        for i in range(start, start + count)
    ]


@pytest.fixture
def add(request: pytest.FixtureRequest) -> Iterator:
    """add_dataset, undone at the end of the test."""
    added = []

    def add(name: str, **arguments: object) -> Dataset:
        dataset = add_dataset(name, **arguments)
        added.append(name)
        return dataset

    yield add
    for name in added:
        del registry._registry[name]


@pytest.fixture
def data_dir(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv(paths.DATA_DIR_VARIABLE, str(tmp_path))
    return tmp_path


def _folder(root: pathlib.Path, **counts: int) -> pathlib.Path:
    for split, count in counts.items():
        write_jsonl(root / f"{split}.jsonl", _records(count))
    return root


def test_importing_tasks_registers_the_datasets_without_frameworks() -> None:
    code = (
        "import sys; from sbs_jax import datasets; import sbs_jax.tasks;"
        "print(*datasets.names());"
        "assert not {'tensorflow', 'seqio', 'jax', 'sentencepiece'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = {"esnli", "anli1", "cqa", "svamp", "asdiv", "svamp_asdiv", "demo"}
    assert set(done.stdout.split()) == expected


def test_a_listener_hears_of_datasets_before_and_after_it(add: Callable) -> None:
    heard: list[str] = []
    add("before", records=lambda split: [])

    def listen(dataset: Dataset) -> None:
        heard.append(dataset.name)

    registry.subscribe(listen)
    try:
        add("after", records=lambda split: [])
    finally:
        registry._listeners.remove(listen)
    assert heard == registry.names()
    assert heard[-2:] == ["before", "after"]


@pytest.mark.parametrize(
    ("name", "dataset", "views", "eval_view"),
    [
        ("cqa_step_by_step", "cqa", ["label", "rationale"], "label"),
        ("cqa_step_by_step_llm", "cqa", ["llm_label", "rationale"], "label"),
        ("svamp_distill", "svamp", ["distill"], "finetune"),
        ("svamp_asdiv_step_by_step", "svamp_asdiv", ["label", "rationale"], "label"),
        ("svamp_single_task", "svamp", ["single_task"], "single_task"),
        ("esnli_pinto", "esnli", ["pinto"], "pinto"),
        ("demo_label", "demo", ["label"], "label"),
        ("demo_rationale", "demo", ["rationale"], "label"),
    ],
)
def test_resolve(name: str, dataset: str, views: list[str], eval_view: str) -> None:
    selection = registry.resolve(name)
    assert (selection.name, selection.dataset.name) == (name, dataset)
    assert [view.name for view in selection.views] == views
    assert selection.eval_view.name == eval_view


def test_every_listed_name_resolves() -> None:
    for name in registry.names():
        dataset = registry.get(name)
        for task in (*dataset.task_names(), *dataset.mixture_names()):
            assert registry.resolve(task).dataset is dataset


@pytest.mark.parametrize(
    ("name", "meant"),
    [("cqa_step_by_stp", "cqa_step_by_step"), ("swamp_label", "svamp_label")],
)
def test_an_unknown_name_gets_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=f"{name}: no such .*did you mean {meant}.*`sbs tasks`"):
        registry.resolve(name)


def test_an_unknown_dataset_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="swamp: no such dataset; did you mean svamp"):
        registry.get("swamp")


# --- rows -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cqa", "svamp"])
@pytest.mark.parametrize(
    ("fraction", "run"), [(1.0, 0), (0.25, 0), (0.25, 2), (0.5, 0), (0.8, 0), (0.05, 0)]
)
def test_rows_equal_the_originals_splits(
    shared: pathlib.Path, data_dir: pathlib.Path, name: str, fraction: float, run: int
) -> None:
    recorded = np.load(shared / "vectors" / "splits.npz")
    total = {"cqa": 9741, "svamp": 800}[name]
    (data_dir / name).mkdir()
    (data_dir / name / "train.jsonl").write_text("{}\n" * total)
    dataset = registry.get(name)
    for split, theirs in (("train", "train"), ("validation", "valid")):
        file_split, rows = dataset.rows(split, fraction, run)
        assert file_split == "train"
        np.testing.assert_array_equal(rows, recorded[f"{name}/sub{fraction}/run{run}/{theirs}"])


def test_files_of_their_own_are_taken_whole(add: object, tmp_path: pathlib.Path) -> None:
    dataset = add("own_files", records=_folder(tmp_path, train=10, validation=3, test=4))
    assert dataset.rows("validation") == ("validation", pytest.approx([0, 1, 2]))
    assert dataset.rows("test", fraction=0.5) == ("test", pytest.approx([0, 1, 2, 3]))
    file_split, rows = dataset.rows("train", fraction=0.5, run=3)
    assert file_split == "train"
    np.testing.assert_array_equal(rows, splits.subsample_rows(10, 0.5, 3))


def test_the_demo_keeps_the_beginning_of_its_file() -> None:
    _, rows = registry.get("demo").rows("train", fraction=0.25)
    np.testing.assert_array_equal(rows, np.arange(200))


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(UserError, match="valid: no such split; use train, validation, test"):
        registry.get("demo").rows("valid")


def _explained(questions: int, times: int) -> list[Record]:
    """Each question several times, with another rationale each time, in rounds."""
    return [
        Record(f"{q}-{t}", f"question {q}", "a", f"because {t}")
        for t in range(times)
        for q in range(questions)
    ]


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("run", [0, 1])
def test_rows_of_one_question_stay_together(add: Callable, fraction: float, run: int) -> None:
    records = _explained(40, 3)
    dataset = add("explained", records=lambda split: records, carve_validation=0.1)
    inputs = {}
    for split in ("train", "validation"):
        _, rows = dataset.rows(split, fraction, run)
        assert len(set(rows.tolist())) == len(rows)
        inputs[split] = [records[row].input for row in rows]
        assert all(inputs[split].count(text) == 3 for text in inputs[split])
    assert not set(inputs["train"]) & set(inputs["validation"])
    drawn = len({*inputs["train"], *inputs["validation"]})
    assert drawn == len(splits.subsample_rows(40, fraction, run))


@pytest.mark.parametrize("fraction", [0.25, 1.0])
@pytest.mark.parametrize("carve", [None, 0.1])
def test_without_repeats_both_rules_give_the_same_rows(
    add: Callable, fraction: float, carve: float | None
) -> None:
    arguments = {"records": lambda split: _records(50), "carve_validation": carve}
    by_question = add("by_question", **arguments)
    by_row = add("by_row", split_by="row", **arguments)
    for split in ("train", "validation"):
        ours, theirs = (d.rows(split, fraction, 3)[1] for d in (by_question, by_row))
        assert ours.tolist() == theirs.tolist()


def test_the_originals_datasets_split_by_row(add: Callable) -> None:
    for name in ("esnli", "anli1", "cqa", "svamp", "svamp_asdiv"):
        assert registry.get(name).split_by == "row"
    records = _explained(40, 3)
    dataset = add("rows", records=lambda split: records, carve_validation=0.1, split_by="row")
    train, _ = splits.train_test_rows(120, 0.1, 0)
    assert dataset.rows("train")[1].tolist() == train.tolist()
    with pytest.raises(UserError, match="split_by is 'line'; use question or row"):
        add("wrong", records=lambda split: records, split_by="line")


# --- sources --------------------------------------------------------------------------------------


def test_missing_data_say_how_to_get_them(data_dir: pathlib.Path) -> None:
    expected = f"cqa/train: no data, .* run: sbs data --release PATH_OR_URL --data_dir {data_dir}$"
    with pytest.raises(UserError, match=expected):
        registry.get("cqa").rows("train")
    with pytest.raises(UserError, match=r"asdiv/test: .* run: sbs data --asdiv ASDiv.xml"):
        list(registry.get("asdiv").read("test"))


def test_an_empty_split_is_refused(data_dir: pathlib.Path) -> None:
    (data_dir / "cqa").mkdir()
    (data_dir / "cqa" / "test.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="cqa/test: the split is empty"):
        registry.get("cqa").rows("test")


def test_a_broken_line_is_named(data_dir: pathlib.Path) -> None:
    (data_dir / "cqa").mkdir()
    (data_dir / "cqa" / "test.jsonl").write_text('{"input": "a", "label": "b"}\n{"input": "a"}\n')
    with pytest.raises(UserError, match=r"cqa/test.jsonl:2: field 'label' is missing"):
        list(registry.get("cqa").read("test"))


def test_text_is_utf_8_with_or_without_a_mark(data_dir: pathlib.Path) -> None:
    (data_dir / "cqa").mkdir()
    path = data_dir / "cqa" / "test.jsonl"
    line = '{"input": "café", "label": "b"}\n'
    path.write_bytes(line.encode("utf-8-sig") + line.encode("latin-1"))
    records = registry.get("cqa").read("test")
    assert next(records).input == "café"
    with pytest.raises(UserError, match=r"test.jsonl:2: not UTF-8 text; save the file as UTF-8"):
        next(records)


def test_a_file_fingerprint_follows_its_content(add: object, tmp_path: pathlib.Path) -> None:
    dataset = add("printed", records=_folder(tmp_path, train=5, test=5))
    before = dataset.fingerprint("train")
    assert before == dataset.fingerprint("test")  # the same bytes
    write_jsonl(tmp_path / "train.jsonl", _records(5, start=1))
    assert dataset.fingerprint("train") != before
    assert dataset.count("train") == 5


def test_a_function_gives_records(add: object) -> None:
    dataset = add("called", records=lambda split: _records({"train": 4, "test": 2}[split]))
    assert dataset.count("train") == 4
    assert list(dataset.read("test")) == _records(2)
    other = add("called_too", records=lambda split: _records(4))
    changed = [dataclasses.replace(r, rationale=None) for r in _records(4)]
    bare = add("called_bare", records=lambda split: changed)
    assert dataset.fingerprint("train") == other.fingerprint("train")
    assert dataset.fingerprint("train") != bare.fingerprint("train")


@pytest.mark.parametrize("written", ["~/mine", "$DATA_OF_MINE/mine", "${DATA_OF_MINE}/mine"])
def test_a_folder_may_be_named_with_a_home_or_a_variable(
    add: Callable, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DATA_OF_MINE", str(tmp_path))
    write_jsonl(tmp_path / "mine" / "train.jsonl", _records(3))
    assert add("at_home", records=written).count("train") == 3


@pytest.mark.parametrize("address", ["s3://bucket/mine", "hf://datasets/x"])
def test_a_folder_elsewhere_is_refused(add: Callable, address: str) -> None:
    with pytest.raises(UserError, match=rf"add_dataset\('far'\): records {address}: only local"):
        add("far", records=address)


def test_what_is_not_a_record_is_refused(add: object) -> None:
    dataset = add("wrong", records=lambda split: [_records(1)[0], {"input": "x"}])
    with pytest.raises(UserError, match="wrong/train: example 1 became dict, not a Record"):
        list(dataset.read("train"))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"label": 1}, r"field 'label' is 1, int and not text; give str"),
        ({"label": None}, r"field 'label' is None, NoneType and not text"),
        ({"label": b"yes"}, r"field 'label' is b'yes', bytes and not text; decode it"),
        ({"id": 7}, r"field 'id' is 7, int"),
        (
            {"input": np.str_("x"), "label": np.float32(1)},
            r"field 'label' is .*float32 and not text",
        ),
        ({"rationale": ["a"]}, r"field 'rationale' is \['a'\], list and not text"),
        ({"llm_label": True}, r"field 'llm_label' is True, bool"),
        ({"rationales": ("a", 1)}, r"field 'rationales' must be a list of texts"),
        ({"input": "x\ud83d"}, r"field 'input' holds half of a surrogate pair"),
    ],
)
def test_fields_that_are_no_text_are_refused(add: Callable, fields: dict, problem: str) -> None:
    record = Record(**{"id": "0", "input": "q", "label": "a", **fields})
    dataset = add("typed", records=lambda split: [*_records(1, start=5), record])
    with pytest.raises(UserError, match=f"typed/test: example 1: {problem}"):
        dataset.count("test")


@pytest.mark.parametrize("error", [KeyError("label"), SystemExit(0), ValueError("a\nb")])
def test_a_function_that_fails_is_one_line(add: Callable, error: BaseException) -> None:
    def records(split: str) -> Iterator[Record]:
        yield from _records(2)
        raise error

    dataset = add("failing", records=records)
    kind = type(error).__name__
    pattern = rf"failing/train: example 2: its function raises {kind} \(.*\) at .*test_registry.py:"
    with pytest.raises(UserError, match=pattern) as caught:
        list(dataset.read("train"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ids", ["aa", "abca", "abcb"])
def test_a_function_that_repeats_an_id_is_refused(add: Callable, ids: str) -> None:
    dataset = add("twice", records=lambda split: [Record(i, "q", "a") for i in ids])
    pattern = rf"twice/test: example {len(ids) - 1}: repeated id .* in twice/test: example \d;"
    with pytest.raises(UserError, match=pattern):
        dataset.count("test")


def test_annotations_are_joined_by_id(data_dir: pathlib.Path) -> None:
    gold = [dataclasses.replace(r, rationale=None, llm_label=None) for r in _records(3)]
    write_jsonl(data_dir / "asdiv" / "train.jsonl", gold)
    dataset = registry.get("asdiv")
    before = dataset.fingerprint("train")
    assert list(dataset.read("train")) == gold
    said = [
        {"id": "2", "rationale": "why", "label": "x"},
        {"id": "0", "llm_label": "y", "label": "g"},
    ]
    path = data_dir / "asdiv" / "annotations.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in said))
    joined = list(dataset.read("train"))
    assert [(r.rationale, r.llm_label) for r in joined] == [(None, "y"), (None, None), ("why", "x")]
    assert dataset.fingerprint("train") != before
    path.write_text('{"id": "1", "rationale": 3}\n')
    with pytest.raises(UserError, match=r"annotations.jsonl:1: field 'rationale' must be text"):
        list(dataset.read("train"))


def test_augmentation_adds_annotated_records_to_train_only(data_dir: pathlib.Path) -> None:
    _folder(data_dir / "svamp", train=20, test=5)
    gold = [dataclasses.replace(r, rationale=None, llm_label=None) for r in _records(4)]
    write_jsonl(data_dir / "asdiv" / "train.jsonl", gold)
    # A registered dataset keeps its counts for the process: take a fresh one.
    source = registry._annotated(registry.get("asdiv"))
    dataset = dataclasses.replace(registry.get("svamp_asdiv"), augmentation=source)
    with pytest.raises(
        UserError, match=r"asdiv/train: no record has a teacher's output; put .*asdiv"
    ):
        dataset.rows("train")
    said = [
        {"id": "1", "rationale": "why", "label": "x"},
        {"id": "3", "rationale": "w", "label": "y"},
    ]
    (data_dir / "asdiv" / "annotations.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in said)
    )
    records = list(dataset.read("train"))
    assert [record.id for record in records[20:]] == ["asdiv/1", "asdiv/3"]
    plain = dataclasses.replace(dataset, augmentation=None)
    for fraction in (1.0, 0.5):
        own = plain.rows("train", fraction)[1]
        np.testing.assert_array_equal(dataset.rows("train", fraction)[1], [*own, 20, 21])
        for split in ("validation", "test"):
            np.testing.assert_array_equal(
                dataset.rows(split, fraction)[1], plain.rows(split, fraction)[1]
            )
    assert list(dataset.read("test")) == list(plain.read("test"))
    assert dataset.fingerprint("train") != plain.fingerprint("train")


# --- add_dataset ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cqa", {}, "the name is taken"),
        ("my data", {}, "letters, digits and underscores"),
        (
            "mine",
            {"metric": "bleu"},
            "metric 'bleu' is neither a function nor one of text, equation",
        ),
        ("mine", {"source": object()}, "give records, or source together with format"),
        ("mine", {"records": "x", "source": object(), "format": Record}, "give records, or source"),
        ("mine", {"augment_with": "nothing"}, "nothing: no such dataset"),
    ],
)
def test_mistakes_in_add_dataset(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        add_dataset(name, **arguments)
    assert "mine" not in registry.names()


@pytest.mark.parametrize("names", [("foo", "foo_llm"), ("foo_llm", "foo")])
def test_datasets_that_share_a_name_of_a_task_are_refused(add: Callable, names: tuple) -> None:
    first, second = names
    add(first, records=lambda split: [])
    message = rf"add_dataset\('{second}'\): foo_llm_label is a task of {first} too; choose another"
    with pytest.raises(UserError, match=message):
        add(second, records=lambda split: [])
    assert second not in registry.names()


def test_a_metric_of_ones_own(add: object) -> None:
    from sbs_jax.metrics import accuracy

    dataset = add(
        "own_metric", records=lambda split: [], metric=lambda p, g: p.lower() == g.lower()
    )
    assert str(accuracy.accuracy(dataset.metric, ["Yes", "no"], ["yes", "yes"])).endswith("(1/2)")


# --- the released data ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cqa", "svamp", "esnli", "anli1"])
def test_tasks_agree_with_what_is_known_of_the_release(name: str) -> None:
    known, dataset = release.RELEASED[name], registry.get(name)
    assert dataset.carve_validation == known.carve_validation
    assert (dataset.carve_validation is None) == ("validation" in known.files)
