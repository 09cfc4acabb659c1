"""Wrong answers asked again: with more samples, and with the gold label given."""

import json

import pytest
from helpers import annotate_cli
from helpers.annotate_cli import rows
from helpers.serving import serving
from helpers.stub_server import StubServer

from sbs_jax.datasets.records import read_jsonl

pytest.importorskip("openai")


def question(call):
    return call.text.rpartition("Q: ")[2].partition("\n")[0]


@pytest.fixture
def gold(tmp_path):
    path = annotate_cli.write_questions(tmp_path / "train.jsonl")
    return {record.input: record.label for record in read_jsonl(path)}


@pytest.fixture
def stub(gold, monkeypatch):
    """Says yes to all; at temperature 1 the first half of the questions right; explains all."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    early = list(gold)[:5]

    def script(call, sample):
        asked = question(call)
        if "The answer is " in call.text.rpartition("Q: ")[2]:
            return f"given . So the answer is {gold[asked]}."
        if call.body["temperature"] == 1.0 and asked in early and sample == 2:
            return f"retried . So the answer is {gold[asked]}."
        return "first . So the answer is yes."

    with serving(StubServer(script)) as server:
        yield server


def outcome(folder):
    lines = rows(folder / "out" / "rationales.jsonl")
    records = list(read_jsonl(folder / "out" / "train.jsonl"))
    card = json.loads((folder / "out" / "report_card.json").read_text())["train"]
    return lines, records, card["accuracy"]


def test_wrong_answers_are_explained_with_the_gold_label(stub, gold, tmp_path, capsys):
    assert annotate_cli.run(stub, tmp_path, only_correct=True) == 0
    _, before, accuracy = outcome(tmp_path)
    calls = len(stub.calls)
    assert annotate_cli.run(stub, tmp_path, only_correct=True, rationalize=True) == 0
    lines, records, after = outcome(tmp_path)
    assert after == accuracy  # the accuracy stays that of the first answers
    assert [r.llm_label for r in records] == [r.llm_label for r in before]
    for line, record in zip(lines, records, strict=True):
        wrong = record.label != "yes"
        assert record.rationale == ("given ." if wrong else "first .")
        assert line.get("provenance") == ("rationalized" if wrong else None)
    asked = {record.input for record in records if record.label != "yes"}
    assert len(stub.calls) - calls == len(asked)
    assert "wrong answers explained by a second pass: rationalized" in capsys.readouterr().out
    annotate_cli.run(stub, tmp_path, only_correct=True, rationalize=True)
    assert len(stub.calls) - calls == len(asked)  # kept in a journal as well


def test_samples_at_a_higher_temperature_come_first(stub, gold, tmp_path):
    flags = {"retry_wrong": 3, "rationalize": True, "only_correct": True}
    assert annotate_cli.run(stub, tmp_path, **flags) == 0
    lines, records, _ = outcome(tmp_path)
    early = list(gold)[:5]
    for line, record in zip(lines, records, strict=True):
        if record.label == "yes":
            assert "provenance" not in line
        else:
            name = "retried" if record.input in early else "rationalized"
            assert line["provenance"] == name
    again = [call for call in stub.calls if call.body["temperature"] == 1.0]
    assert again and all(call.body["n"] == 3 for call in again)


def spent(folder):
    """The tokens of all passes."""
    journals = (folder / "out").rglob("journal.jsonl")
    return sum(sum(row["usage"].values()) for path in journals for row in rows(path))


EARLIER = [
    ({}, {"rationalize": True}),
    ({"limit": 5, "rationalize": True}, {}),
    ({"limit": 5, "retry_wrong": 1}, {}),
    ({"rationalize": True}, {"retry_wrong": 1, "rationalize": True}),
]


@pytest.mark.parametrize(("earlier", "now"), EARLIER)
def test_the_budget_covers_all_passes_of_all_runs(stub, tmp_path, capsys, earlier, now):
    assert annotate_cli.run(stub, tmp_path, **earlier) == 0
    calls, used = len(stub.calls), spent(tmp_path)
    assert annotate_cli.run(stub, tmp_path, **now, max_tokens_total=used) == 1
    assert len(stub.calls) == calls
    assert f"(spent: {used:,} tokens)" in capsys.readouterr().err


def test_records_without_gold_labels_are_not_asked_again(stub, tmp_path):
    (tmp_path / "train.jsonl").write_text('{"input": "can a x y ?", "label": ""}\n')
    assert annotate_cli.run(stub, tmp_path, rationalize=True) == 0
    assert len(stub.calls) == 1
