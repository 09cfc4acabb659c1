"""What `sbs annotate` reads and refuses: flags, records and tables."""

import csv
import gzip
import io
import json

import pytest
from helpers.annotate_cli import rows

from sbs_jax.cli import main
from sbs_jax.datasets import demo
from sbs_jax.datasets.records import Record, read_jsonl, write_jsonl

pytest.importorskip("openai")


BAD_INPUT = [
    ({"task": "cqaa"}, "cqaa: no such prompt; built-in: anli1"),
    ({"model": None}, "--model is required"),
    ({"input": "nothing.jsonl"}, "nothing.jsonl: no such file"),
    ({"shard": "3/3"}, "--shard=3/3: expected I/N with I from 0 to N-1"),
    ({"shard": "a"}, "--shard=a: expected I/N"),
    ({"request_json": "{"}, "--request_json: not valid JSON"),
    ({"request_json": '{"n": 2}'}, "--request_json: expected an object without"),
    ({"request_json": '{"max_tokens": "many"}'}, "max_tokens must be a whole number above 0"),
    ({"request_json": '{"max_completion_tokens": 0}'}, "must be a whole number above 0"),
    ({"request_json": '{"top_p": NaN}'}, "--request_json: not valid JSON (NaN is no JSON)"),
    ({"n": 0}, "n"),
]


@pytest.mark.parametrize(("flags", "message"), BAD_INPUT)
def test_bad_input_is_one_line(annotate, stub, tmp_path, capsys, flags, message):
    assert annotate(**flags) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert stub.calls == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher=embedded", "--task=cqa"], "--teacher=embedded: it knows the task demo only"),
        (
            ["--import_released=x.zip", "--task=cqa", "--input=x.jsonl"],
            "--input: --import_released brings its own inputs",
        ),
        (
            ["--import_released=x.zip", "--task=demo"],
            "--import_released: it holds esnli, anli1, cqa, svamp, not demo",
        ),
    ],
)
def test_imports_of_another_dataset(tmp_path, capsys, flags, message):
    assert main(["annotate", f"--out={tmp_path / 'out'}", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_records_without_gold_labels_are_not_scored(annotate, questions, tmp_path):
    write_jsonl(questions, [Record("a", "can a b c ?", ""), Record("b", "can a b d ?", "yes")])
    annotate()
    card = json.loads((tmp_path / "out" / "report_card.json").read_text())["train"]
    assert card["accuracy"]["n"] == 1
    assert all(record.llm_label for record in read_jsonl(tmp_path / "out" / "train.jsonl"))


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train.csv"])
def test_a_label_may_be_absent_or_null(annotate, tmp_path, capsys, name):
    rows = [{"input": "can a b c ?"}, {"input": "can a b d ?", "label": None}]
    texts = {
        "train.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "train.json": json.dumps(rows),
        "train.csv": "input\ncan a b c ?\ncan a b d ?\n",
    }
    (tmp_path / name).write_text(texts[name])
    assert annotate(input=tmp_path / name) == 0
    answered = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    assert [(r.id, r.label) for r in answered] == [("1", ""), ("2", "")]
    assert all(record.llm_label for record in answered)
    card = json.loads((tmp_path / "out" / "report_card.json").read_text())["train"]
    assert card["accuracy"]["n"] == 0
    said = capsys.readouterr().out
    assert "train\nnot scored: no record has an answer and a gold label\nWrote" in said


def test_out_never_replaces_the_input(annotate, questions, capsys):
    before = questions.read_bytes()
    assert annotate(out=questions.parent) == 2
    assert "--out would replace this input" in capsys.readouterr().err
    assert questions.read_bytes() == before


def test_an_empty_input_is_named(annotate, questions, tmp_path, capsys):
    questions.write_text("")
    assert annotate() == 2
    assert "train.jsonl: the file is empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_half_a_character(annotate, stub, questions, tmp_path, capsys):
    stub.script = lambda call, sample: "half \ud800 . So the answer is yes."
    assert annotate() == 0
    assert next(read_jsonl(tmp_path / "out" / "train.jsonl")).rationale == "half ? ."
    assert rows(tmp_path / "out" / "journal.jsonl")[0]["text"].startswith("half \ud800")
    questions.write_text('{"id": "x", "input": "\\ud800", "label": "yes"}\n')
    calls = len(stub.calls)
    assert annotate() == 2
    assert "train.jsonl:1: half of a surrogate pair" in capsys.readouterr().err
    assert len(stub.calls) == calls


def test_a_broken_line_is_named(annotate, questions, capsys):
    questions.write_text('{"input": "can a x y ?", "label": "yes"}\n{"label": "no"}\n')
    assert annotate() == 2
    assert "train.jsonl:2: field 'input' is missing" in capsys.readouterr().err


def test_several_inputs(annotate, stub, questions, tmp_path):
    other = tmp_path / "test.jsonl"
    write_jsonl(other, [Record("t", "can a zzz yyy ?", "yes")])
    flags = [f"--input={other}", f"--out={tmp_path / 'out'}", f"--base_url={stub.base_url}"]
    flags += ["--task=demo", "--model=m", f"--input={questions}"]
    assert main(["annotate", *flags]) == 0
    assert len(list(read_jsonl(tmp_path / "out" / "test.jsonl"))) == 1
    assert len(list(read_jsonl(tmp_path / "out" / "train.jsonl"))) == 12
    splits = [row["split"] for row in rows(tmp_path / "out" / "rationales.jsonl")]
    assert splits == ["test"] + ["train"] * 12


def _as_csv(records):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([("id", "input", "label"), *((r.id, r.input, r.label) for r in records)])
    return text.getvalue().encode()


def _as_lines(records):
    return b"\n".join(
        json.dumps({"id": r.id, "input": r.input, "label": r.label}).encode() for r in records
    )


def _as_array(records):
    return b"[" + _as_lines(records).replace(b"\n", b",") + b"]"


TABLES = [
    ("train.csv", _as_csv),
    ("train.CSV.GZ", lambda records: gzip.compress(_as_csv(records))),
    ("train.json", _as_array),
    ("train.jsonl", lambda records: b"\xef\xbb\xbf \n" + _as_array(records)),
    ("train.jsonl.gz", lambda records: gzip.compress(_as_lines(records))),
]


@pytest.mark.parametrize(("name", "write"), TABLES)
def test_the_input_may_be_any_table(annotate, tmp_path, name, write):
    records = [Record(r.id, f"{r.input}\u2028?", r.label) for r in demo.questions("train")[:2]]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(write(records))
    assert annotate(input=tmp_path / "in" / name) == 0
    answered = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    assert [(r.id, r.input, r.label) for r in answered] == [
        (r.id, r.input, r.label) for r in records
    ]


def test_a_table_without_the_fields_of_records_is_named(annotate, tmp_path, capsys):
    path = tmp_path / "mine.csv"
    path.write_text("question,answer\nq,a\n")
    assert annotate(input=path) == 2
    assert "mine.csv:2: field 'input' is missing" in capsys.readouterr().err


def test_the_default_input_is_the_prepared_file(stub, questions, tmp_path):
    (tmp_path / "data" / "demo").mkdir(parents=True)
    questions.rename(tmp_path / "data" / "demo" / "train.jsonl")
    flags = [f"--data_dir={tmp_path / 'data'}", f"--out={tmp_path / 'out'}", "--model=m"]
    assert main(["annotate", "--task=demo", f"--base_url={stub.base_url}", *flags]) == 0
    assert len(list(read_jsonl(tmp_path / "out" / "train.jsonl"))) == 12
