"""What users of comparable tools complained about, one test per complaint."""

import json
import os
import subprocess
import sys

import pytest
from helpers import annotate_cli
from helpers.annotate_cli import DISTINCT, oracle, rows
from helpers.fault_proxy import FaultProxy
from helpers.serving import serving
from helpers.stub_server import error

from sbs_jax.datasets.records import Record, read_jsonl
from sbs_jax.teacher import answer_parser, prompts

pytest.importorskip("openai")


def answered(folder):
    return [record.llm_label is not None for record in read_jsonl(folder / "out" / "train.jsonl")]


@pytest.mark.parametrize("dataset", ["esnli", "anli1", "cqa", "svamp"])
def test_google_research_distilling_step_by_step_issue_4_no_prompts(dataset):
    """https://github.com/google-research/distilling-step-by-step/issues/4"""
    prompt = prompts.load(dataset)
    shown = prompt.exemplars[0]
    record = Record("1", shown.input, shown.label)
    assert prompt.write_completion(prompt.exemplars[-1]) in prompt.render(record)
    read = answer_parser.read(prompt, record, prompt.write_completion(shown))
    assert read == answer_parser.Reading(shown.rationale, shown.label, "exact")


def test_google_research_distilling_step_by_step_issue_8_several_answer_phrases():
    """https://github.com/google-research/distilling-step-by-step/issues/8"""
    text = (
        "It may rain. So the answer is neutral.\n\nPremise: Snow fell.\nHypothesis: It was warm.\n"
        "Answer: Snow is cold. So the answer is contradiction."
    )
    read = answer_parser.read(prompts.load("anli1"), Record("1", "p</s>h", "neutral"), text)
    assert read == answer_parser.Reading("It may rain.", "neutral", "exact")


def test_modelscope_easydistill_issue_18_a_network_fault_loses_a_long_run(stub, tmp_path):
    """https://github.com/modelscope/easydistill/issues/18"""
    with serving(FaultProxy(stub.base_url, 1.0, 0, 0.0)) as broken:
        good = iter([None] * 4)
        broken.next_fault = lambda: next(good, "drop")
        assert annotate_cli.run(broken, tmp_path, max_retries=0, concurrency=1) == 1
    assert len(rows(tmp_path / "out" / "journal.jsonl")) == len(stub.calls) == 4
    assert annotate_cli.run(stub, tmp_path) == 0
    assert len(stub.calls) == DISTINCT and all(answered(tmp_path))


def test_bespokelabsai_curator_issue_564_restart_and_constant_concurrency(stub, tmp_path):
    """https://github.com/bespokelabsai/curator/issues/564"""
    # A first run full of failures must leave the second one at full concurrency.
    stub.script = lambda call, sample: error(500, "oops", Retry_After="0.01")
    annotate_cli.run(stub, tmp_path, concurrency=4, max_retries=0)
    stub.script = oracle
    with annotate_cli.gathering(stub, 4) as inside:
        assert annotate_cli.run(stub, tmp_path, concurrency=4) == 0
    assert max(inside) == 4 and all(answered(tmp_path))


def test_bespokelabsai_curator_issue_618_stop_now_and_keep_what_succeeded(stub, tmp_path):
    """https://github.com/bespokelabsai/curator/issues/618"""
    stub.script = lambda call, sample: (
        error(401, "revoked") if stub.samples.total() >= 6 else oracle(call, sample)
    )
    assert annotate_cli.run(stub, tmp_path, concurrency=1) == 2
    assert sum(answered(tmp_path)) == 8  # six questions, two of them asked twice
    assert len(rows(tmp_path / "out" / "journal.jsonl")) == 6


def test_argilla_io_distilabel_issue_588_cache_survives_changed_processing(stub, tmp_path):
    """https://github.com/argilla-io/distilabel/issues/588"""
    annotate_cli.run(stub, tmp_path)
    calls = len(stub.calls)
    for change in (
        {"parser": "exact"},
        {"only_correct": True},
        {"concurrency": 3},
        {"limit": 5},
        {"shard": "0/2"},
        {"base_url": f"{stub.base_url}/"},
    ):
        assert annotate_cli.run(stub, tmp_path, **change) == 0
    assert len(stub.calls) == calls


def test_argilla_io_distilabel_issue_1065_recoverable_from_the_cache_alone(stub, tmp_path):
    """https://github.com/argilla-io/distilabel/issues/1065"""
    annotate_cli.run(stub, tmp_path)
    out = tmp_path / "out"
    before = (out / "rationales.jsonl").read_bytes()
    for path in out.iterdir():
        if path.name != "journal.jsonl":
            path.unlink()
    calls = len(stub.calls)
    assert annotate_cli.run(stub, tmp_path) == 0
    assert len(stub.calls) == calls and (out / "rationales.jsonl").read_bytes() == before


def test_argilla_io_distilabel_issue_864_one_bad_answer_spoils_only_itself(stub, tmp_path):
    """https://github.com/argilla-io/distilabel/issues/864"""
    bad = next(read_jsonl(tmp_path / "train.jsonl")).input
    junk = '{"reasoning": ['
    stub.script = lambda call, sample: junk if bad in call.text else oracle(call, sample)
    assert annotate_cli.run(stub, tmp_path) == 0
    records = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    assert [bool(record.rationale) for record in records] == [
        record.input != bad for record in records
    ]
    report = json.loads((tmp_path / "out" / "parse_report.json").read_text())
    assert report["outcomes"] == {"exact": 10, "no_answer": 2}
    assert report["samples"]["no_answer"][0] == {"id": "demo0-train-0", "text": junk}


def test_ucbepic_docetl_issue_50_failed_calls_are_not_cached(stub, tmp_path):
    """https://github.com/ucbepic/docetl/issues/50"""
    stub.script = lambda call, sample: error(500, "oops", Retry_After="0.01")
    assert annotate_cli.run(stub, tmp_path, max_retries=0) == 2
    assert (tmp_path / "out" / "journal.jsonl").read_bytes() == b""
    stub.script = oracle
    assert annotate_cli.run(stub, tmp_path) == 0
    assert all(answered(tmp_path))


def test_safety_research_safety_tooling_issue_43_batch_answers_serve_direct_calls(stub, tmp_path):
    """https://github.com/safety-research/safety-tooling/issues/43"""
    assert annotate_cli.run(stub, tmp_path, batch_export=True) == 0
    results = tmp_path / "results.jsonl"
    choice = {"message": {"content": "so . So the answer is no."}, "finish_reason": "stop"}
    response = {"status_code": 200, "body": {"id": "r", "choices": [choice]}}
    requests = rows(tmp_path / "out" / "batch" / "requests-001.jsonl")
    lines = [{"custom_id": row["custom_id"], "response": response} for row in requests]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert annotate_cli.run(stub, tmp_path, batch_import=results) == 0
    assert annotate_cli.run(stub, tmp_path) == 0
    assert stub.calls == [] and all(answered(tmp_path))


@pytest.mark.parametrize("damage", [b"\x00" * 4096, b"SQLite format 3\x00", b'{"key": "x"'])
def test_stanfordnlp_dspy_pull_10301_a_corrupt_cache_does_not_crash(stub, tmp_path, damage):
    """https://github.com/stanfordnlp/dspy/pull/10301"""
    annotate_cli.run(stub, tmp_path)
    journal = tmp_path / "out" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[3] = damage + b"\n"
    journal.write_bytes(b"".join(lines))
    assert annotate_cli.run(stub, tmp_path) == 0
    assert len(stub.calls) == DISTINCT + 1 and all(answered(tmp_path))
    report = json.loads((tmp_path / "out" / "parse_report.json").read_text())
    assert report["unreadable_lines"] == 1


def test_stanfordnlp_dspy_pull_8843_and_diskcache_issue_345_no_database_on_network_disks(
    stub, tmp_path
):
    """https://github.com/stanfordnlp/dspy/pull/8843
    https://github.com/grantjenks/python-diskcache/issues/345
    """
    annotate_cli.run(stub, tmp_path)
    for path in (tmp_path / "out").iterdir():
        path.read_text(encoding="utf-8")  # nothing but text: no database, no memory map
    code = (
        "import sys, sbs_jax.teacher.annotate\n"
        "assert not {'sqlite3', 'diskcache', 'mmap'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stanfordnlp_dspy_issue_8717_import_on_a_read_only_disk(tmp_path):
    """https://github.com/stanfordnlp/dspy/issues/8717"""
    code = """
import builtins, io, os
def refuse(*args, **kwargs):
    raise OSError(30, "Read-only file system")
opened = io.open
def reading_only(file, mode="r", *args, **kwargs):
    return refuse() if set(mode) & set("wax+") else opened(file, mode, *args, **kwargs)
builtins.open = io.open = reading_only
os.mkdir = os.makedirs = refuse
import sbs_jax.teacher.annotate, sbs_jax.cli.annotate
"""
    environment = {**os.environ, "HOME": str(tmp_path / "none"), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not list(tmp_path.iterdir())


def test_itsnamgyu_reasoning_teacher_issue_2_answers_can_be_parsed_again(stub, tmp_path, capsys):
    """https://github.com/itsnamgyu/reasoning-teacher/issues/2"""
    stub.script = lambda call, sample: "Because. I say the answer is: Yes!"
    annotate_cli.run(stub, tmp_path, parser="exact")
    assert "no_answer 12" in capsys.readouterr().out
    annotate_cli.run(stub, tmp_path)  # the same texts, read again, tolerantly
    assert "phrase 12" in capsys.readouterr().out
    assert len(stub.calls) == DISTINCT


def test_modelscope_easydistill_issue_11_answers_are_scored_and_filtered(stub, tmp_path):
    """https://github.com/modelscope/easydistill/issues/11"""
    annotate_cli.run(stub, tmp_path, only_correct=True)
    card = json.loads((tmp_path / "out" / "report_card.json").read_text())["train"]
    records = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    assert card["accuracy"]["correct"] == sum(r.label == r.llm_label for r in records)
    assert [r.rationale is not None for r in records] == [r.label == r.llm_label for r in records]
