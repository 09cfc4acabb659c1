"""`sbs annotate` against a real OpenAI-compatible server: transformers serve, a tiny random Llama.

The server runs in a Python of its own, $SBS_SERVER_PYTHON or this one; `make test-server` makes it.
"""

import collections
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from sbs_jax.cli import main
from sbs_jax.datasets import demo
from sbs_jax.datasets.records import read_jsonl, write_jsonl

PYTHON = os.environ.get("SBS_SERVER_PYTHON", sys.executable)
MAKE_MODEL = pathlib.Path(__file__).resolve().parents[2] / "benchmarks" / "make_tiny_llm.py"
RECORDS = 50


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    pytest.importorskip("openai")
    if sys.executable == PYTHON and not importlib.util.find_spec("transformers"):
        pytest.skip("transformers is not installed; make test-server installs it apart")
    folder = tmp_path_factory.mktemp("model")
    subprocess.run([PYTHON, str(MAKE_MODEL), str(folder)], check=True, capture_output=True)
    return str(folder)


@pytest.fixture(scope="module")
def base_url(model, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(pathlib.Path(PYTHON).with_name("transformers")), "serve", model]
    command += ["--host=127.0.0.1", f"--port={port}", "--device=cpu"]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
        try:
            _wait_until_healthy(server, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            server.wait(30)


def _wait_until_healthy(server, url, log):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                assert json.load(answer) == {"status": "ok"}
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(log.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_fifty_records_end_to_end(model, base_url, tmp_path, capsys, api):
    asked = demo.questions("train")[:RECORDS]
    write_jsonl(tmp_path / "train.jsonl", asked)
    out = tmp_path / "out"
    flags = ["--task=demo", f"--input={tmp_path / 'train.jsonl'}", f"--out={out}", f"--api={api}"]
    flags += [f"--base_url={base_url}", f"--model={model}", "--max_tokens=12", "--n=2"]
    assert main(["annotate", *flags]) == 0
    answered = list(read_jsonl(out / "train.jsonl"))
    assert [record.id for record in answered] == [record.id for record in asked]
    assert all(record.llm_label is not None for record in answered)
    rows = [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]
    assert len(rows) == len({row["key"] for row in rows}) == RECORDS * 2  # it ignores n
    # A random model at temperature 0.7: its two samples differ, but for a chance in many.
    texts = collections.defaultdict(set)
    for row in rows:
        texts[row["id"]].add(row["text"])
    assert sum(len(said) == 2 for said in texts.values()) > RECORDS / 2
    assert all(row["usage"]["completion_tokens"] <= 12 for row in rows)
    report = json.loads((out / "parse_report.json").read_text())
    assert report["completions"] == RECORDS * 2 and report["unanswered"] == 0
    before = (out / "journal.jsonl").read_bytes()
    capsys.readouterr()
    assert main(["annotate", *flags]) == 0
    assert "nothing to ask" in capsys.readouterr().err
    assert (out / "journal.jsonl").read_bytes() == before
