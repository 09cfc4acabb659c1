"""`sbs annotate --batch_export` and `--batch_import`: files of the Batch API in place of calls."""

import gzip
import json

import pytest
from helpers.annotate_cli import rows

from sbs_jax.teacher import batch_api

pytest.importorskip("openai")


def test_batches_share_the_journal(annotate, stub, tmp_path, capsys):
    annotate(limit=4, temperature=0.7)
    assert annotate(batch_export=True, n=2, base_url=None) == 0
    out = tmp_path / "out"
    requests = rows(out / "batch" / "requests-001.jsonl")
    assert len(requests) == 10 and len(stub.calls) == 4
    assert requests[0].keys() == {"custom_id", "method", "url", "body"}
    assert requests[0]["url"] == "/v1/chat/completions"
    assert [request["body"].get("n", 1) for request in requests] == [1] * 4 + [2] * 6
    assert annotate(batch_export=True, n=2) == 2  # one at a time
    assert "holds an earlier export" in capsys.readouterr().err

    results = tmp_path / "results.jsonl"
    lines = [_batch_result(i, request) for i, request in enumerate(requests)]
    lines[3] = {"custom_id": requests[3]["custom_id"], "response": None}
    lines[3]["error"] = {"code": "batch_expired", "message": "too late"}
    results.write_text("".join(json.dumps(line) + "\n" for line in lines[::-1]))
    for expected in ("15 answers added, 0 known already", "0 answers added, 9 known already"):
        assert annotate(batch_import=results, n=2) == 0
        said = capsys.readouterr().out
        assert f"{expected}, 1 failed: too late" in said
    assert annotate(n=2) == 0  # the rest directly
    assert len(stub.calls) == 5
    assert {row["samples"] for row in rows(out / "rationales.jsonl")} == {2}


def _batch_result(number, request):
    choices = [
        {"message": {"content": f"so {sample} . So the answer is yes."}, "finish_reason": "stop"}
        for sample in range(request["body"].get("n", 1))
    ]
    body = {"id": f"r{number}", "model": "m", "choices": choices, "usage": {"prompt_tokens": 5}}
    response = {"status_code": 200, "body": body}
    return {"custom_id": request["custom_id"], "response": response, "error": None}


def test_a_batch_that_gave_too_little_is_not_counted_twice(annotate, tmp_path, capsys):
    annotate(batch_export=True, n=3, limit=1)
    (request,) = rows(tmp_path / "out" / "batch" / "requests-001.jsonl")
    result = _batch_result(1, request)
    del result["response"]["body"]["choices"][2]
    results = tmp_path / "results.jsonl"
    results.write_text(json.dumps(result) + "\n")
    for _ in range(2):
        annotate(batch_import=results, n=3, limit=1)
    said = capsys.readouterr().out
    assert "2 answers added, 0 known" in said and "0 answers added, 1 known" in said
    assert len(rows(tmp_path / "out" / "journal.jsonl")) == 2


def test_large_batches_are_split(annotate, tmp_path, monkeypatch):
    monkeypatch.setattr(batch_api, "MOST_REQUESTS", 4)
    assert annotate(batch_export=True) == 0
    parts = sorted((tmp_path / "out" / "batch").iterdir())
    assert [path.name for path in parts] == [f"requests-00{i}.jsonl" for i in (1, 2, 3)]
    assert [len(rows(path)) for path in parts] == [4, 4, 2]


def test_a_file_that_is_no_batch_result(annotate, tmp_path, capsys):
    path = tmp_path / "wrong.jsonl"
    for text in (
        "[1]\n",
        "id,response\n",
        '{"custom_id": "x", "body": {}}\n',
        '{"response": {}}\n',
    ):
        path.write_text("\n" + text)
        assert annotate(batch_import=path) == 2
        assert "wrong.jsonl:2: not a result of the Batch API" in capsys.readouterr().err


def _in(response, **more):
    return lambda body: {"response": response(body), "error": None, **more}


BATCH_FORMS = [
    _in(lambda body: {"status_code": "200", "body": body}),
    _in(lambda body: {"status_code": 201, "body": body}),
    _in(lambda body: {"body": body}),
    _in(lambda body: body),
    _in(lambda body: {"status_code": 200, "body": json.dumps(body)}),
    _in(lambda body: {"status_code": 200, "body": body | {"usage": {"total": 10**20}}}),
    _in(lambda body: {"status_code": 200, "body": body}, error={"code": "", "message": ""}),
]


def test_results_in_the_forms_of_several_services(annotate, tmp_path, capsys):
    annotate(batch_export=True)
    requests = rows(tmp_path / "out" / "batch" / "requests-001.jsonl")
    lines = []
    for number, request in enumerate(requests[: len(BATCH_FORMS)]):
        body = _batch_result(number, request)["response"]["body"]
        lines.append(json.dumps({"custom_id": request["custom_id"]} | BATCH_FORMS[number](body)))
    lines.insert(1, "garbage")
    path = tmp_path / "results.jsonl.gz"
    path.write_bytes(gzip.compress("\ufeff".encode() + "\r\n".join(lines).encode()))
    assert annotate(batch_import=path) == 0
    said = capsys.readouterr().out
    assert f"{len(BATCH_FORMS)} answers added, 0 known already, 1 failed: line 2 is no" in said
