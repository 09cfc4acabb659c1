"""`sbs annotate` from the command line against a scripted server."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from helpers import annotate_cli
from helpers.annotate_cli import oracle, rows
from helpers.stub_server import error

from sbs_jax.cli import main
from sbs_jax.datasets import annotations, demo
from sbs_jax.datasets.records import read_jsonl, write_jsonl

pytest.importorskip("openai")


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_records_in_records_out(annotate, stub, questions, tmp_path, api, capsys):
    assert annotate(api=api) == 0
    out = tmp_path / "out"
    asked, answered = list(read_jsonl(questions)), list(read_jsonl(out / "train.jsonl"))
    assert [(r.id, r.input, r.label) for r in answered] == [(r.id, r.input, r.label) for r in asked]
    for record in answered:
        assert record.rationale == f"it is {record.input.split()[2]} ."
        assert record.llm_label == ("yes" if len(record.input) % 2 else "no")
    rationales = rows(out / "rationales.jsonl")
    assert [(r["id"], r["rationale"], r["label"]) for r in rationales] == [
        (r.id, r.rationale, r.llm_label) for r in answered
    ]
    assert len(stub.calls) == 10  # equal questions are asked once
    right = sum(r.label == r.llm_label for r in answered)
    assert f"({right}/12)" in capsys.readouterr().out
    card = json.loads((out / "report_card.json").read_text())["train"]
    assert (card["accuracy"]["correct"], card["accuracy"]["n"]) == (right, 12)
    assert json.loads((out / "parse_report.json").read_text())["outcomes"] == {"exact": 12}


def test_journal_rows_hold_everything(annotate, tmp_path):
    annotate()
    row = rows(tmp_path / "out" / "journal.jsonl")[0]
    assert row["key"].endswith("-0") and len(row["key"]) == 64 + 2
    assert (row["model"], row["model_answered"], row["finish_reason"]) == (
        "m",
        "m-answered",
        "stop",
    )
    assert row["params"] == {"temperature": 0.0, "max_tokens": 64, "stop": ["\n\nQ:"]}
    assert row["usage"].keys() == {"prompt_tokens", "completion_tokens"}
    assert len(row["prompt_sha"]) == 64 and row["time"].endswith("+00:00")
    assert row.keys() >= {"id", "sample", "text", "attempts", "response_id"}


def test_a_second_run_asks_nothing(annotate, stub, tmp_path):
    annotate()
    before = (tmp_path / "out" / "train.jsonl").read_bytes()
    calls = len(stub.calls)
    assert annotate() == 0
    assert len(stub.calls) == calls
    assert (tmp_path / "out" / "train.jsonl").read_bytes() == before


def test_more_records_and_more_samples_reuse_what_is_there(annotate, stub):
    annotate(limit=4, temperature=0.7)
    assert len(stub.calls) == 4
    annotate(temperature=0.7)
    assert len(stub.calls) == 10
    annotate(n=3)
    assert [call.body.get("n") for call in stub.calls[10:]] == [2] * 10


def test_several_rationales_reach_the_records(annotate, stub, questions, tmp_path, capsys):
    stub.script = lambda call, sample: f"it is so{' very' * sample} . So the answer is yes."
    assert annotate(n=3, rationales=2) == 0
    (record, *_) = read_jsonl(tmp_path / "out" / "train.jsonl")
    assert (
        record.rationales == ("it is so .", "it is so very .") and record.rationale == "it is so ."
    )
    line = rows(tmp_path / "out" / "rationales.jsonl")[0]
    assert line["rationales"] == list(record.rationales)
    (again, *_) = annotations.join(
        read_jsonl(questions), annotations.read(tmp_path / "out" / "rationales.jsonl"), "train"
    )
    assert again == record
    assert annotate(n=1, rationales=2) == 2
    assert "--rationales=2: a sample gives one rationale" in capsys.readouterr().err


def test_other_settings_are_refused_and_shown(annotate, stub, capsys):
    annotate(limit=1)
    assert annotate(temperature=0.5, max_tokens=9) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "made with other settings" in message
    assert "request.temperature was 0.0, now 0.5" in message
    assert "request.max_tokens was 64, now 9" in message
    assert len(stub.calls) == 1


def test_samples_vote(annotate, stub, tmp_path):
    def wavering(call, sample):
        said = ["no", "yes", "yes", "perhaps", "yes"][sample]
        return f"thought number {sample} {'long ' * (3 - sample)}. So the answer is {said}."

    stub.script, stub.honours_n = wavering, False  # ... and a server that ignores n
    assert annotate(n=5, limit=2) == 0
    assert len(stub.calls) == 10
    answer = rows(tmp_path / "out" / "rationales.jsonl")[0]
    assert (answer["label"], answer["votes"], answer["samples"], answer["agreement"]) == (
        "yes",
        3,
        5,
        0.6,
    )
    assert answer["rationale"] == "thought number 4 ."  # the shortest that votes so
    card = json.loads((tmp_path / "out" / "report_card.json").read_text())["train"]
    assert [(level["votes"], level["n"]) for level in card["calibration"]] == [(3, 2)]


def test_the_tokens_of_a_call_are_counted_once(annotate, stub, tmp_path):
    annotate(n=3, limit=2)
    journal = rows(tmp_path / "out" / "journal.jsonl")
    assert len(stub.calls) == 2 and len(journal) == 6
    usage = [row["usage"].get("completion_tokens", 0) for row in journal]
    assert sum(usage) == 2 * 30


def test_identical_samples_are_warned_of(annotate, capsys):
    annotate(n=2)
    assert "the samples of every record are identical" in capsys.readouterr().out


FILTERED = [
    ({"only_correct": True}, "gold", True),
    ({"min_agreement": 1.5}, "agreement", False),
    ({"min_words": 100}, "short", True),
    ({"max_words": 1}, "long", True),
]


@pytest.mark.parametrize(("flags", "reason", "keeps_label"), FILTERED)
def test_filters(annotate, stub, tmp_path, flags, reason, keeps_label):
    annotate()
    calls = len(stub.calls)
    annotate(**flags)
    assert len(stub.calls) == calls  # filtering again is free
    records = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    answers = rows(tmp_path / "out" / "rationales.jsonl")
    report = json.loads((tmp_path / "out" / "parse_report.json").read_text())
    dropped = [reason in answer["dropped"] for answer in answers]
    assert sum(dropped) == report["dropped"][reason] > 0
    for record, gone in zip(records, dropped, strict=True):
        assert (record.rationale is None) == gone
        assert (record.llm_label is not None) == (keeps_label or not gone)
        if reason == "gold":
            assert gone == (record.label != record.llm_label)


def test_leaks_and_repeats(annotate, stub, tmp_path):
    rationales = iter(["yes it is", "fine", "Fine", "it is so"])
    stub.script = lambda call, sample: f"{next(rationales)} . So the answer is yes."
    annotate(limit=4, drop_leaks=True, drop_repeats=True, concurrency=1)
    dropped = [row["dropped"] for row in rows(tmp_path / "out" / "rationales.jsonl")]
    assert dropped == [["leak"], [], ["repeat"], []]


def test_dry_run_sends_and_writes_nothing(annotate, stub, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert annotate(dry_run=True, base_url=None, n=2, price_in=1.5, price_out=3) == 0
    said = capsys.readouterr().out
    assert "records: 12 (10 distinct), 2 sample(s) each" in said
    assert "requests to send: 10 for 20 completions" in said
    assert "at most 1,280 out" in said  # 20 * 64
    tokens = int(re.search(r"tokens: about ([\d,]+) in", said)[1].replace(",", ""))
    prompt = said.partition("[user]\n")[2].partition("\n--- request 2")[0]
    assert tokens == pytest.approx(10 * len(prompt) / 4, rel=0.05)
    assert said.count("--- request ") == 3 and said.count("[system]") == 3
    assert f"Q: {next(read_jsonl(tmp_path / 'train.jsonl')).input}\nA:" in said
    assert "cost: about $0.0" in said and "at most $0.0" in said
    assert stub.calls == [] and not (tmp_path / "out").exists()


def test_dry_run_counts_what_is_left(annotate, capsys):
    annotate(limit=4)
    annotate(dry_run=True)
    assert "requests to send: 6 for 6 completions" in capsys.readouterr().out


def test_what_fails_is_named_and_asked_again(annotate, stub, tmp_path, capsys):
    broken = next(read_jsonl(tmp_path / "train.jsonl")).input
    stub.script = lambda call, sample: (
        error(500, "oops", Retry_After="0.01") if broken in call.text else oracle(call, sample)
    )
    assert annotate() == 1
    said = capsys.readouterr()
    assert "1 records failed, first demo0-train-0: 500 oops" in said.err
    assert "2 of 12 records have no answer yet" in said.out  # its repetition too
    out = tmp_path / "out"
    assert len(rows(out / "journal.jsonl")) == 9
    assert rows(out / "rationales.jsonl")[0]["label"] is None
    stub.script = oracle
    calls = len(stub.calls)
    assert annotate() == 0
    assert len(stub.calls) == calls + 1
    assert rows(out / "rationales.jsonl")[0]["label"] is not None


@pytest.mark.parametrize("refused", ["oops", "maximum context length is 10 tokens"])
def test_equal_ids_of_two_splits_are_two_records(stub, tmp_path, capsys, refused):
    files = [tmp_path / "train.jsonl", tmp_path / "test.jsonl"]
    for path, record in zip(files, demo.questions("train")[:2], strict=True):
        write_jsonl(path, [dataclasses.replace(record, id="1")])
    stub.script = lambda call, sample: error(400, refused)
    flags = ["--task=demo", f"--out={tmp_path / 'out'}", "--model=m", "--max_retries=0"]
    inputs = [f"--input={path}" for path in files]
    status = main(["annotate", *flags, *inputs, f"--base_url={stub.base_url}"])
    assert status == (1 if refused == "oops" else 0)
    said = capsys.readouterr().err
    assert "2 records failed, first 1: 400 oops" in said or said.count("record 1: too long") == 2


def test_a_record_that_fails_in_two_passes_is_one(annotate, stub, tmp_path, capsys):
    assert annotate() == 0
    stub.script = lambda call, sample: error(400, "oops")
    wrong = {
        r.input for r in read_jsonl(tmp_path / "out" / "train.jsonl") if r.label != r.llm_label
    }
    assert annotate(retry_wrong=1, rationalize=True) == 1
    assert f"{len(wrong)} records failed, first " in capsys.readouterr().err


def test_a_long_prompt_is_skipped_and_reported(annotate, stub, tmp_path, capsys):
    long = next(read_jsonl(tmp_path / "train.jsonl")).input
    stub.script = lambda call, sample: (
        error(400, "maximum context length is 10 tokens")
        if call.text.endswith(f"{long}\nA:")
        else oracle(call, sample)
    )
    assert annotate() == 0
    said = capsys.readouterr()
    assert "record demo0-train-0: too long for the model, left out" in said.err
    assert len(stub.calls) == 10


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (error(401, "bad key"), "the server refuses the key: 401 bad key"),
        (error(429, "pay", "insufficient_quota"), "the quota is spent"),
        (error(404, "no model"), "no such model or address"),
    ],
)
def test_hopeless_runs_stop_at_once(annotate, stub, tmp_path, capsys, response, message):
    stub.script = lambda call, sample: response
    assert annotate(concurrency=2) == 2
    said = capsys.readouterr()
    assert message in said.err.splitlines()[-1]
    assert said.out == "" and not (tmp_path / "out" / "train.jsonl").exists()  # nothing to write
    assert len(stub.calls) <= 2


def test_a_row_of_failures_stops_the_run(annotate, stub, capsys):
    stub.script = lambda call, sample: error(400, "no parameter called stop")
    assert annotate(concurrency=1) == 2
    assert "10 calls failed in a row, the last with: 400 no parameter called stop" in (
        capsys.readouterr().err
    )
    assert len(stub.calls) == 10


def test_failures_between_successes_do_not_stop_the_run(annotate, stub, questions):
    write_jsonl(questions, demo.questions("train")[:16])
    stub.script = lambda call, sample: (
        oracle(call, sample) if len(stub.calls) == 8 else error(400, "no")
    )
    assert annotate(concurrency=1) == 1  # 7 and 8 failures, never 10 in a row
    assert len(stub.calls) == 16


def test_the_key_reaches_no_file_and_no_output(annotate, stub, tmp_path, capsys):
    stub.script = lambda call, sample: (
        error(500, f"I saw {call.authorization}") if sample == 0 else oracle(call, sample)
    )
    annotate(limit=3, max_retries=0)
    stub.script = oracle
    annotate()
    said = capsys.readouterr()
    assert "I saw Bearer [key]" in said.err
    assert annotate_cli.SECRET not in said.out + said.err
    for path in (tmp_path / "out").rglob("*"):
        assert annotate_cli.SECRET.encode() not in path.read_bytes()


def test_shards_merge_into_one(annotate, stub, tmp_path, capsys):
    whole = tmp_path / "whole"
    annotate(out=whole)
    calls = len(stub.calls)
    for shard in range(3):
        assert annotate(shard=f"{shard}/3") == 0
    out = tmp_path / "out"
    assert len(stub.calls) == calls + 10  # each distinct question once over all shards
    assert sorted(path.name for path in out.glob("*.jsonl")) == [
        f"journal-{shard}-of-3.jsonl" for shard in range(3)
    ]
    assert [len(rows(path)) for path in sorted(out.glob("*.jsonl"))] == [4, 3, 3]
    assert annotate() == 0
    assert len(stub.calls) == calls + 10
    for name in ("train.jsonl", "rationales.jsonl", "report_card.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_requests_per_minute(annotate):
    began = time.monotonic()
    annotate(rpm=1200)  # 20 a second: ten calls need 0.45 s
    assert time.monotonic() - began >= 0.45


def test_tokens_per_minute_count_what_was_used(annotate, tmp_path):
    began = time.monotonic()
    annotate(tpm=240_000, max_tokens=4000, concurrency=1)
    # 4,000 tokens a second. Ten calls may use 41,500, and used 1,600: that is what is counted.
    assert 0.3 <= time.monotonic() - began <= 8


def test_concurrency(annotate, stub):
    with annotate_cli.gathering(stub, 4) as inside:
        annotate(concurrency=4)
    assert max(inside) == 4


@pytest.mark.parametrize("patient", [True, False])
def test_ctrl_c_keeps_what_is_there_and_says_how_to_go_on(stub, questions, tmp_path, patient):
    gate = threading.Event()

    def slow(call, sample):
        if stub.samples.total() >= 4:
            gate.wait(20)
        return oracle(call, sample)

    stub.script = slow
    command = [sys.executable, "-m", "sbs_jax", "annotate", "--task=demo", f"--input={questions}"]
    command += [f"--out={tmp_path / 'out'}", f"--base_url={stub.base_url}", "--model=m"]
    command += ["--concurrency=1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as run:
        journal = tmp_path / "out" / "journal.jsonl"
        while len(stub.calls) < 5:
            threading.Event().wait(0.02)
        run.send_signal(signal.SIGINT)
        assert "waiting for the calls in flight" in run.stderr.readline()
        if patient:
            gate.set()
        else:
            run.send_signal(signal.SIGINT)
        _, said = run.communicate(timeout=20)
        gate.set()
    assert run.returncode == 130
    assert "the same command continues" in said
    # The call in flight was paid for, so it is kept; a second Ctrl-C drops it.
    assert len(rows(journal)) == (5 if patient else 4)
    assert len(rows(tmp_path / "out" / "train.jsonl")) == 12
    assert len(stub.calls) == 5


def test_zero_shot_and_given_labels(annotate, stub, questions):
    annotate(mode="zero_shot", label_given=True, limit=1)
    asked = stub.calls[0].text
    label = next(read_jsonl(questions)).label
    assert asked.startswith("Say of what kind the thing is")
    assert asked.endswith(f"The answer is {label}. Explain why, then repeat the answer.\nA:")


def test_import_released(release_dir, tmp_path, capsys):
    flags = ["--task=svamp", f"--import_released={release_dir}", f"--out={tmp_path}", "--limit=200"]
    assert main(["annotate", *flags]) == 0
    said = capsys.readouterr().out
    assert "teacher's accuracy    0.7400 [0.6751, 0.7959] (148/200)" in said
    journal = rows(tmp_path / "journal.jsonl")
    assert len(journal) == 400 and "\n\nQ: " in journal[0]["text"]
    size = (tmp_path / "journal.jsonl").stat().st_size
    assert main(["annotate", *flags, "--parser=tolerant"]) == 0
    assert (tmp_path / "journal.jsonl").stat().st_size == size


def test_embedded_teacher(tmp_path):
    assert main(["annotate", "--task=demo", "--teacher=embedded", f"--out={tmp_path}"]) == 0
    for split in ("train", "validation", "test"):
        found = [_spoken(record) for record in read_jsonl(tmp_path / f"{split}.jsonl")]
        assert found == [_spoken(record) for record in demo.records(split)]


def _spoken(record):
    """The record with blank teacher fields as None."""
    rationale, label = (record.rationale or "").strip(), (record.llm_label or "").strip()
    return (record.id, record.input, record.label, rationale or None, label or None)
