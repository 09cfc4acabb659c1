"""A user's table as records: columns, splits and the report on them."""

import json
from pathlib import Path

import pytest

from sbs_jax.datasets import own_data
from sbs_jax.datasets.own_data import Columns
from sbs_jax.datasets.records import Record, read_jsonl
from sbs_jax.errors import UserError


def _write(folder: Path, *rows: dict) -> str:
    path = folder / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_columns_become_fields(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        {"q": "x", "a": 5, "why": None, "key": "k1", "said": True},
        {"q": "y", "a": 0.5, "why": "so", "key": 2, "said": "no"},
    )
    columns = Columns("q", "a", "why", "said", "key")
    assert own_data.read(path, columns) == [
        Record("k1", "x", "5", None, "true"),
        Record("2", "y", "0.5", "so", "no"),
    ]
    assert [record.id for record in own_data.read(path, Columns("q", "a"))] == ["1", "2"]


@pytest.mark.parametrize(
    ("row", "columns", "problem"),
    [
        (
            {"question": "x", "a": "y"},
            Columns("qestion", "a"),
            r"t.jsonl:2: no column 'qestion'; did you mean 'question'\?; it has 'a', 'question'$",
        ),
        ({"q": None, "a": "y"}, Columns("q", "a"), "t.jsonl:2: column 'q' is empty"),
        ({"q": "x", "a": None}, Columns("q", "a"), "t.jsonl:2: column 'a' is empty"),
        ({"q": "x", "a": ["y"]}, Columns("q", "a"), "t.jsonl:2: column 'a' holds"),
        ({"q": "x", "a": float("nan")}, Columns("q", "a"), "t.jsonl:2: column 'a' holds nan"),
        ({"q": "x", "a": "y", "k": "1"}, Columns("q", "a", id="k"), "t.jsonl:2: repeated id '1'"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, row: dict, columns: Columns, problem: str) -> None:
    sound = {"q": "x", "a": "y", "k": "1", "qestion": "x"}
    with pytest.raises(UserError, match=problem):
        own_data.read(_write(tmp_path, sound, row), columns)


def _records(count: int, times: int = 1) -> list[Record]:
    return [
        Record(f"{q}-{t}", f"question {q}", "a", f"because {t}")
        for q in range(count)
        for t in range(times)
    ]


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("given", [[], ["test"], ["validation"], ["test", "validation"]])
def test_missing_splits_are_drawn_by_question(times: int, given: list[str]) -> None:
    files = {"train": _records(50, times), **{split: _records(3) for split in given}}
    carved = own_data.carve(files, 0.2, "t.csv")
    assert list(carved) == ["train", "validation", "test"]
    for split in given:
        assert carved[split] == files[split]
    drawn = [split for split in carved if split not in given]
    ids = [record.id for split in drawn for record in carved[split]]
    assert sorted(ids) == sorted(record.id for record in files["train"])
    asked = [{record.input for record in carved[split]} for split in drawn]
    assert sum(map(len, asked)) == len(set().union(*asked)) == 50
    assert own_data.carve(files, 0.2, "t.csv") == carved


@pytest.mark.parametrize(
    ("train", "more", "message"),
    [
        (_records(1, 5), [], "5 records of 1 different questions are too few to draw test and val"),
        (_records(2), [], "2 records of 2 different questions are too few to draw test and val"),
        (_records(1), ["test"], "1 records of 1 different questions are too few to draw validat"),
    ],
)
def test_too_few_questions_are_refused(train, more, message) -> None:
    files = {"train": train, **{split: _records(3) for split in more}}
    with pytest.raises(UserError, match=rf"^t.csv: {message}.* \(--fraction=0.1 each\)"):
        own_data.carve(files, 0.1, "t.csv")


def test_ids_differ_between_splits(tmp_path: Path) -> None:
    records = {"train": _records(2), "test": _records(2)}
    assert not own_data.ids_differ(records)
    differing = own_data.with_split_in_ids(records)
    assert own_data.ids_differ(differing)
    own_data.write(tmp_path, differing)
    ids = [r.id for s in ("train", "test") for r in read_jsonl(tmp_path / f"{s}.jsonl")]
    assert ids == ["train-0-0", "train-1-0", "test-0-0", "test-1-0"]


def test_a_folder_holds_records_whatever_their_ids(tmp_path: Path) -> None:
    records = {"train": _records(3), "test": _records(2)}
    own_data.write(tmp_path, own_data.with_split_in_ids(records))
    assert own_data.holds(tmp_path, records)
    assert not own_data.holds(tmp_path, {**records, "test": _records(3)})
    assert not own_data.holds(tmp_path, {**records, "validation": _records(1)})


@pytest.mark.parametrize(
    ("tables", "usable"),
    [
        ([[{"id": "a"}, {"id": "b"}]], True),
        ([[{"id": 1}, {"id": 2}], [{"id": 3}]], True),
        ([[{"id": 1}, {"id": 2}], [{"id": 2}]], False),
        ([[{"id": "a"}, {"id": "a"}]], False),
        ([[{"id": 1}, {"id": "1"}]], False),
        ([[{"id": "a"}, {"id": " "}]], False),
        ([[{"id": "a"}, {"id": None}]], False),
        ([[{"id": 1.0}, {"id": 2.0}]], False),
        ([[{"id": "a"}, {}]], False),
        ([[{"key": "a"}]], False),
    ],
)
def test_a_column_of_ids_is_used_where_its_values_differ(tmp_path, tables, usable) -> None:
    paths = [tmp_path / f"{number}.jsonl" for number in range(len(tables))]
    for path, rows in zip(paths, tables, strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert own_data.have_ids(map(str, paths)) == usable


def test_the_report_shows_sizes_balance_and_unseen_labels() -> None:
    train = [*_records(9), Record("x", "question 0", "b")]
    splits = {"train": train, "validation": _records(2), "test": [Record("1", "q", "never")]}
    assert list(own_data.report(splits)) == [
        "train       10 records of 9 questions, 9 with a rationale",
        "validation  2 records, 2 with a rationale",
        "test        1 records, 0 with a rationale",
        "warning: train has 1 questions with different labels, such as 'question 0' with 'a' "
        "and 'b'",
        "labels      2 classes in train: 'a' 90%, 'b' 10%",
        "warning: test has 1 records whose label is not in train, such as 'never'",
    ]


@pytest.mark.parametrize(
    ("train", "warned"),
    [
        ([("q", "a"), ("q", "b"), ("q ", "c"), ("r", "a")], "1 questions with different labels"),
        ([("q", "a"), ("q", "b"), ("r", "b"), ("r", "a")], "2 questions with different labels"),
        ([("long " * 99, "a"), ("long " * 99, "b")], f"{('long ' * 12)!r}".rstrip("'") + " ...'"),
        ([("q", "a"), ("r", "a")], "every label in train is 'a'"),
        ([("q", "a"), ("q", "a"), ("r", "b")], None),
    ],
)
def test_labels_that_teach_nothing_are_named(train, warned):
    rows = [Record(str(i), question, label) for i, (question, label) in enumerate(train)]
    lines = own_data.report({"train": rows, "validation": rows[:1], "test": rows[:1]})
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert len(warnings) == (warned is not None)
    assert warned is None or warned in warnings[0]


@pytest.mark.parametrize(
    ("lengths", "length"), [([1], 8), ([8], 8), ([9, 3], 16), ([1000], 256), ([], 8)]
)
def test_lengths_truncate_as_little_as_they_may(lengths: list[int], length: int) -> None:
    assert own_data.fitting_length(lengths, 256) == length


@pytest.mark.parametrize(
    ("labels", "alike"),
    [
        (["1", "1.0", "0"], "'1' and '1.0'"),
        (["yes", "Yes", "no"], "'Yes' and 'yes'"),
        (["yes", "yes ", "no"], "'yes' and 'yes '"),
        (["not  odd", "not odd"], "'not  odd' and 'not odd'"),
        (["yes", "no"], None),
        (["1", "01a", "10"], None),
        (["true", "1"], None),
    ],
)
def test_labels_that_look_alike_are_named(labels, alike):
    rows = [Record(str(i), f"q{i}", label) for i, label in enumerate(labels)]
    lines = list(own_data.report({"train": rows, "validation": rows[:1], "test": rows[:1]}))
    warned = [line for line in lines if "different classes" in line]
    assert len(warned) == (alike is not None)
    assert alike is None or f"labels {alike} are different classes" in warned[0]


def test_labels_that_may_be_missing_values_are_named():
    labels = ["NaN", "yes", "NaN", "None", "nano", "no"]
    rows = [Record(str(i), f"q{i}", label) for i, label in enumerate(labels)]
    lines = list(own_data.report({"train": rows, "validation": rows[1:2], "test": rows[:1]}))
    warned = [line.partition(":")[2] for line in lines if "is it missing?" in line]
    assert [line.partition(": is it")[0] for line in warned] == [
        " 3 records have the label 'NaN'",
        " 1 records have the label 'None'",
    ]


def test_rationales_that_may_be_missing_values_are_named():
    rows = [Record(str(i), f"q{i}", "ab"[i % 2], why) for i, why in enumerate(["so", "nan", None])]
    lines = list(own_data.report({"train": rows, "validation": rows[:1], "test": rows[:1]}))
    (warned,) = (line for line in lines if "is it missing?" in line)
    assert warned.startswith("warning: 1 records have the rationale 'nan'")
    assert warned.endswith("Then leave the cell empty")


def test_labels_of_the_teacher_in_another_form_are_named():
    """pandas writes whole numbers with gaps as 1.0: no such label is the gold one."""
    rows = [Record(str(i), f"q{i}", "01"[i % 2], llm_label=("0.0", "1.0")[i % 2]) for i in range(4)]
    lines = list(own_data.report({"train": rows, "validation": rows[:2], "test": rows[:2]}))
    warned = [line for line in lines if "different classes" in line]
    assert len(warned) == 2 and "labels '0' and '0.0'" in warned[0]


def test_an_empty_cell_is_no_label_of_the_teacher(tmp_path):
    (tmp_path / "t.csv").write_text('input,label,teach\na,yes,\nb,no,yes\nc,no," "\n')
    rows = own_data.read(str(tmp_path / "t.csv"), Columns("input", "label", teacher_label="teach"))
    assert [row.llm_label for row in rows] == [None, "yes", " "]


def test_further_rationales_come_along(tmp_path):
    rows = [
        {"q": "x", "a": "y", "why": "r", "rationales": ["r", "s"]},
        {"q": "z", "a": "y", "why": "edited", "rationales": ["r", "s"]},
        {"q": "v", "a": "y", "why": "r", "rationales": "other"},
    ]
    read = own_data.read(_write(tmp_path, *rows), Columns("q", "a", "why"))
    assert [row.rationales for row in read] == [("r", "s"), (), ()]
    assert read[0].targets == ("y", "r", "s")


def test_a_run_continues_on_the_empty_texts_of_an_earlier_version(tmp_path):
    before = [Record("1", "q", "a", rationale="", llm_label="")]
    own_data.write(tmp_path, {"train": before})
    assert own_data.holds(tmp_path, {"train": [Record("train-1", "q", "a")]})
    assert not own_data.holds(tmp_path, {"train": [Record("train-1", "q", "a", llm_label=" ")]})


@pytest.mark.parametrize("cell", ["", " ", "\t"])
def test_an_empty_cell_of_the_label_is_refused(tmp_path, cell):
    (tmp_path / "t.csv").write_text(f'input,label\na,yes\nb,"{cell}"\n')
    with pytest.raises(UserError, match=r"t.csv:3: column 'label' is empty"):
        own_data.read(str(tmp_path / "t.csv"), own_data.Columns("input", "label"))


def test_splits_that_are_not_read_are_known(tmp_path):
    for name in ("train", "dev", "test_matched"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset_info.json").write_text("{}")
    assert own_data.unused_splits(str(tmp_path)) == []  # no DatasetDict
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "dev", "test_matched"]}')
    assert own_data.unused_splits(str(tmp_path)) == ["dev", "test_matched"]
    assert own_data.unused_splits(str(tmp_path / "none.csv")) == []


@pytest.mark.parametrize(
    ("rows", "rationales"),
    [
        ([{}, {"why": "so"}], [None, "so"]),  # not in the first row
        ([{"why": "so"}, {}], ["so", None]),
        ([{"why": None}, {"why": ""}], [None, None]),
        ([{}, {}], [None, None]),
        ([{"other": "x"}, {"why": "so", "other": "y"}], [None, "so"]),
    ],
)
def test_single_rows_may_have_no_rationale(tmp_path, rows, rationales):
    lines = [json.dumps({"q": f"x{i}", "a": "y", **row}) for i, row in enumerate(rows)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    read = own_data.read(str(tmp_path / "t.jsonl"), Columns("q", "a", "why"))
    assert [record.rationale for record in read] == rationales


def test_a_column_that_no_row_has_is_refused_where_it_is_required(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"q": "x", "a": "y", "why": "so"}\n')
    columns = Columns("q", "a", "whys")
    assert own_data.read(str(tmp_path / "t.jsonl"), columns)[0].rationale is None
    with pytest.raises(UserError, match=r"t.jsonl: no column 'whys'; did you mean 'why'"):
        own_data.read(str(tmp_path / "t.jsonl"), columns, required=["whys"])


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("q,a\n")
    with pytest.raises(UserError, match=r"t.csv: holds no record"):
        own_data.read(str(tmp_path / "t.csv"), Columns("q", "a"))
