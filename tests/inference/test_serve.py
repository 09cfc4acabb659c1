"""`sbs serve`: the answers of `sbs predict`, over HTTP, several callers in one batch."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers import runs

from sbs_jax.cli import main
from sbs_jax.datasets import registry
from sbs_jax.datasets.records import Record
from sbs_jax.inference import student
from sbs_jax.inference.batcher import Batcher, Full
from sbs_jax.inference.predictor import Predictor
from sbs_jax.training import trainer

pytest.importorskip("fastapi", reason="pip install 'sbs_jax[serve]'")
from fastapi.testclient import TestClient

from sbs_jax.inference import http_server

HEALTH = http_server.Health(status="ok", mixture="demo_step_by_step", step=12)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student") / "run"
    trainer.train(runs.config_of(folder, train_steps=2, eval_period=2))
    return folder


@pytest.fixture(scope="module")
def questions() -> list[str]:
    return [record.input for record in list(registry.get("demo").read("test"))[:5]]


def _client(batcher: Batcher, explains: bool = True) -> TestClient:
    return TestClient(http_server.app(batcher, HEALTH, explains))


def _echo(records: list[Record], with_rationales: bool) -> list[dict]:
    rationale = {"rationale": "so"} if with_rationales else {}
    return [{"label": r.input, **rationale, "truncated": False} for r in records]


def test_answers_are_those_of_the_predictor(model_dir: Path, questions: list[str]) -> None:
    predictor = Predictor(student.find_run(model_dir), 4)
    questions = [*questions, " ".join(questions * 3)]
    records = [Record(str(i), text, "") for i, text in enumerate(questions)]
    expected = predictor.answer(records, with_rationales=True)
    assert predictor.counts.truncated == 1
    batcher = Batcher(predictor.answer_and_mark, 4, 100)
    client = _client(batcher)
    reply = client.post("/predict", json={"inputs": questions, "rationale": True})
    marks = [{"truncated": False}] * 5 + [{"truncated": True}]
    assert reply.json() == {"answers": [a | m for a, m in zip(expected, marks, strict=True)]}
    labels = client.post("/predict", json={"inputs": questions}).json()["answers"]
    assert [a["label"] for a in labels] == [a["label"] for a in expected]
    assert [a["rationale"] for a in labels] == [None] * len(questions)
    batcher.close()


def test_callers_share_a_batch() -> None:
    held, groups = threading.Event(), []

    def ask(records: list[Record], with_rationales: bool) -> list[dict]:
        if not groups:
            held.wait(10)
        groups.append([r.input for r in records])
        return _echo(records, with_rationales)

    batcher = Batcher(ask, 4, 100)
    (first,) = batcher.put([Record("0", "first", "")], False)
    others = [
        future for i in range(6) for future in batcher.put([Record("0", f"other {i}", "")], i == 2)
    ]
    held.set()
    assert first.result(10)["label"] == "first"
    assert [f.result(10)["label"] for f in others] == [f"other {i}" for i in range(6)]
    assert others[2].result() == {"label": "other 2", "rationale": "so", "truncated": False}
    assert max(map(len, groups)) > 1 and max(map(len, groups)) <= 4
    batcher.close()
    assert not batcher.is_alive()


def test_health_overload_and_an_error_of_the_model() -> None:
    started, held = threading.Event(), threading.Event()

    def ask(records: list[Record], with_rationales: bool) -> list[dict]:
        if records[0].input == "break":
            raise ValueError("broken")
        started.set()
        held.wait(10)
        return _echo(records, with_rationales)

    batcher = Batcher(ask, 1, 2)
    client = TestClient(http_server.app(batcher, HEALTH, True), raise_server_exceptions=False)
    assert client.get("/healthz").json() == HEALTH.model_dump()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.post, "/predict", json={"inputs": ["slow"]})
        assert started.wait(10)
        reply = client.post("/predict", json={"inputs": ["x"] * 20})
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        held.set()
        assert waiting.result().json()["answers"][0]["label"] == "slow"
    assert client.post("/predict", json={"inputs": ["break"]}).status_code == 500
    batcher.close()
    assert client.get("/healthz").status_code == 503


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [""]},
        {"inputs": [3]},
        {"inputs": ["x"], "rationales": True},
        {"inputs": ["x"] * (http_server.MOST_INPUTS + 1)},
        {"inputs": ["x" * 100_001]},
        {"inputs": ["x"], "rationale": True},
    ],
)
def test_wrong_requests_are_refused(body: dict) -> None:
    batcher = Batcher(_echo, 4, 100)
    assert _client(batcher, explains=False).post("/predict", json=body).status_code in (400, 422)
    batcher.close()


@pytest.mark.parametrize(
    "body",
    [
        b'{"inputs": ["x\\ud83d"]}',
        b'{"inputs": [NaN]}',
        b'{"inputs": ["x"], "rationale": Infinity}',
        b'{"inputs": ["x"], "more": "\\udfff"}',
        b'{"inputs": [" \\n"]}',
        b'{"inputs": [""]}',
        b"\xff\xfe",
    ],
)
def test_what_no_response_can_repeat_is_refused_too(body: bytes) -> None:
    batcher = Batcher(_echo, 4, 100)
    client = TestClient(http_server.app(batcher, HEALTH, True), raise_server_exceptions=False)
    reply = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == 422
    assert all(set(fault) == {"loc", "msg", "type"} for fault in reply.json()["detail"])
    batcher.close()


def test_the_api_describes_itself() -> None:
    batcher = Batcher(_echo, 4, 100)
    client = _client(batcher)
    assert set(client.get("/openapi.json").json()["paths"]) == {"/healthz", "/predict"}
    assert "openapi.json" in client.get("/docs").text
    batcher.close()


def test_a_full_queue_says_so() -> None:
    held = threading.Event()
    batcher = Batcher(lambda records, _: (held.wait(10), _echo(records, False))[1], 1, 1)
    with pytest.raises(Full):
        for _ in range(10):
            batcher.put([Record("0", "x", "")], False)
    held.set()
    batcher.close()


def test_questions_of_a_refused_request_are_not_answered() -> None:
    begun, held, answered = threading.Event(), threading.Event(), []

    def ask(records: list[Record], with_rationales: bool) -> list[dict]:
        begun.set()
        held.wait(10)
        answered.extend(record.input for record in records)
        return _echo(records, with_rationales)

    def questions(name: str, count: int) -> list[Record]:
        return [Record(str(i), f"{name} {i}", "") for i in range(count)]

    batcher = Batcher(ask, 1, 4)
    batcher.put(questions("first", 1), False)
    assert begun.wait(10)
    kept = batcher.put(questions("kept", 2), False)
    with pytest.raises(Full):
        batcher.put(questions("refused", 4), False)
    held.set()
    batcher.close()
    assert [future.result()["label"] for future in kept] == ["kept 0", "kept 1"]
    assert answered == ["first 0", "kept 0", "kept 1"]


def test_a_request_larger_than_the_queue_says_so() -> None:
    batcher = Batcher(_echo, 4, 3)
    reply = _client(batcher).post("/predict", json={"inputs": ["a", "b", "c", "d"]})
    assert reply.status_code == 503 and "a request has at most 3" in reply.json()["detail"]
    batcher.close()


def test_a_real_server_on_loopback(model_dir: Path, questions: list[str]) -> None:
    command = [sys.executable, "-m", "sbs_jax", "serve", f"--model_dir={model_dir}", "--port=0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        said = []
        for line in server.stderr:
            said.append(line)
            if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("".join(said))
        body = json.dumps({"inputs": questions}).encode()
        request = urllib.request.Request(
            f"{address[0]}/predict", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            answers = json.load(reply)["answers"]
        with urllib.request.urlopen(f"{address[0]}/healthz", timeout=60) as reply:
            assert json.load(reply)["mixture"] == "demo_step_by_step"
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
    assert len(answers) == len(questions) and all("label" in answer for answer in answers)
    assert not any(answer["truncated"] for answer in answers)


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", "address already in use"), ("no.such.host.invalid", "")],
)
def test_an_address_that_cannot_be_had_is_one_line(
    capsys: pytest.CaptureFixture[str], host: str, reason: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--model_dir=x", f"--host={host}", f"--port={port}"]) == 2
    complaint = capsys.readouterr().err
    assert f"--host={host} --port={port}: " in complaint and reason in complaint
    assert "choose another" in complaint and len(complaint.splitlines()) == 1


def test_a_missing_library_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "--model_dir=x"]) == 2
    assert "uvicorn is missing; pip install 'sbs_jax[serve]'" in capsys.readouterr().err
