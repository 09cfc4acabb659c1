"""Votes over the folders of several teachers, and who agrees with whom."""

import json

import pytest
from helpers import annotate_cli

from sbs_jax.cli import main
from sbs_jax.datasets.records import Record, read_jsonl, write_jsonl

RECORDS = [Record(str(i), f"can a w{i} swim ?", "yes" if i % 2 else "no") for i in range(6)]


def folder(path, labels, rationale="because", **more):
    """A folder as annotate leaves it; labels by record, None for no answer."""
    path.mkdir()
    lines = [
        {"split": "train", "id": str(i), "label": label, "rationale": f"{rationale} {i}", **more}
        for i, label in enumerate(labels)
        if label is not None
    ]
    (path / "rationales.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def three(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", RECORDS)
    return [
        folder(tmp_path / "a", ["no", "yes", "yes", "no", " ", None], "a thinks"),
        folder(tmp_path / "b", ["no", "yes", "no", "yes", "no", None], "b says"),
        folder(tmp_path / "c", ["yes", "yes", "no", "no", "no", None], "c is of the opinion"),
    ]


def run_merge(tmp_path, folders, *flags):
    merged = [f"--merge={path}" for path in folders]
    inputs = f"--input={tmp_path / 'train.jsonl'}"
    return main(["annotate", "--task=demo", inputs, f"--out={tmp_path / 'out'}", *merged, *flags])


def test_teachers_vote(three, tmp_path, capsys):
    assert run_merge(tmp_path, three) == 0
    records = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    assert [r.llm_label for r in records] == ["no", "yes", "no", "no", "no", None]
    assert [r.rationale for r in records][:3] == ["b says 0", "b says 1", "b says 2"]
    lines = annotate_cli.rows(tmp_path / "out" / "rationales.jsonl")
    assert [line["votes"] for line in lines] == [2, 3, 2, 2, 2, 0]
    said = capsys.readouterr().out
    assert "a's accuracy" in said
    # Of the five records that all answer; blank labels never agree.
    matrix = [line.split() for line in said.splitlines() if line.startswith(("a  ", "b  ", "c  "))]
    assert matrix == [
        ["a", "-", "0.4000", "0.4000"],
        ["b", "0.4000", "-", "0.6000"],
        ["c", "0.4000", "0.6000", "-"],
    ]
    agreement = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert agreement["accuracy"]["b"]["correct"] == 5
    labels = agreement["report_cards"]["c"]["labels"]
    assert (labels["yes"]["said"], labels["yes"]["correct"], labels["no"]["n"]) == (2, 1, 3)
    pairs = {tuple(pair["teachers"]): pair["correct"] for pair in agreement["agreement"]}
    assert pairs == {("a", "b"): 2, ("a", "c"): 2, ("b", "c"): 3}


def test_without_gold_labels_no_teacher_is_scored(three, tmp_path, capsys):
    write_jsonl(tmp_path / "train.jsonl", [Record(r.id, r.input, "") for r in RECORDS])
    assert run_merge(tmp_path, three) == 0
    said = capsys.readouterr().out
    assert "a's accuracy          not scored\n" in said and "nan" not in said
    assert "not scored: no record has an answer and a gold label" in said


def test_filters_apply_to_the_vote(three, tmp_path):
    assert run_merge(tmp_path, three, "--min_agreement=0.9") == 0
    records = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    assert [r.llm_label is not None for r in records] == [False, True, False, False, False, False]


def test_every_teacher_of_the_label_may_leave_a_rationale(three, tmp_path):
    assert run_merge(tmp_path, three, "--rationales=2") == 0
    records = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    assert records[1].rationales == ("b says 1", "a thinks 1")  # all three agree, the shortest two
    assert records[5].rationales == ()


MISTAKES = [
    (None, ["--rationales=4"], "--rationales=4: a sample gives one rationale, and there are 3"),
    ("no/folder", [], "no such file"),
    (None, ["--n=3"], "--n: has no effect"),
    (None, ["--dry_run"], "--dry_run: has no effect"),
]


@pytest.mark.parametrize(("extra", "flags", "message"), MISTAKES)
def test_mistakes_are_named(three, tmp_path, capsys, extra, flags, message):
    folders = three + ([tmp_path / extra] if extra else [])
    assert run_merge(tmp_path, folders, *flags) == 2
    assert message in capsys.readouterr().err


def test_folders_of_one_name_and_answers_in_the_way(three, tmp_path, capsys):
    (tmp_path / "more").mkdir()
    assert run_merge(tmp_path, [*three, folder(tmp_path / "more" / "a", ["no"])]) == 2
    assert "two folders are called alike" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "journal.jsonl").write_text("")
    assert run_merge(tmp_path, three) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_an_odd_line_is_named(three, tmp_path, capsys):
    (three[0] / "rationales.jsonl").write_text('{"split": "train", "id": "0", "label": 3}\n')
    assert run_merge(tmp_path, three) == 2
    assert "rationales.jsonl:1: label and rationale must be text" in capsys.readouterr().err
