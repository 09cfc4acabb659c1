"""Twenty kills through a server that fails in every way: all answered once, nothing paid twice."""

import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from helpers.fault_proxy import FAULTS, FaultProxy
from helpers.serving import serving
from helpers.stub_server import StubServer

from sbs_jax.datasets import demo
from sbs_jax.datasets.records import read_jsonl, write_jsonl

pytest.importorskip("openai")

RUNNER = pathlib.Path(__file__).parents[1] / "helpers" / "annotate_again.py"
RECORDS, SAMPLES, KILLS, CONCURRENCY, SEED = 60, 3, 20, 8, 20261121


def script(call, sample):
    question = call.text.rpartition("Q: ")[2].partition("\n")[0]
    label = "yes" if sum(map(ord, question)) % 2 else "no"
    return f"thought {sample} on {question.split()[2]} . So the answer is {label}."


class Runs:
    """`sbs annotate` again and again."""

    def __init__(self, process):
        self.process = process

    def start(self):
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def status(self):
        return int(self.process.stdout.readline())


@contextlib.contextmanager
def running(flags):
    command = [sys.executable, str(RUNNER), *flags]
    environment = os.environ | {"OPENAI_API_KEY": "none"}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    ) as process:
        yield Runs(process)
        process.stdin.close()


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_twenty_kills_among_faults(tmp_path):
    asked = demo.questions("train")[:RECORDS]
    write_jsonl(tmp_path / "train.jsonl", asked)
    journal = tmp_path / "out" / "journal.jsonl"
    draw = random.Random(SEED)
    flags = ["--task=demo", f"--input={tmp_path / 'train.jsonl'}", f"--out={journal.parent}"]
    flags += ["--model=m", f"--n={SAMPLES}", "--timeout=1", "--max_retries=8"]
    flags += [f"--concurrency={CONCURRENCY}"]
    stub = StubServer(script, honours_n=False)
    with (
        serving(stub),
        serving(FaultProxy(stub.base_url, 0.25, SEED, stall_seconds=1.2)) as proxy,
        running([*flags, f"--base_url={proxy.base_url}"]) as runs,
    ):
        for _ in range(KILLS):
            enough = lines(journal) + draw.randint(0, 6)
            process = runs.start()
            deadline = time.monotonic() + 20
            while lines(journal) < enough and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.02))
            os.kill(process, signal.SIGKILL)
            assert runs.status() == -signal.SIGKILL
            if draw.random() < 0.5 and journal.exists():
                with journal.open("ab") as torn:
                    torn.write(b'{"key": "torn off in the mid')
        for _ in range(5):  # what fails in all of its retries is asked by the next run
            runs.start()
            if runs.status() == 0:
                break
        else:
            pytest.fail("five undisturbed runs did not finish")
        paid, received = proxy.delivered, proxy.received
        runs.start()
        assert runs.status() == 0
        assert proxy.received == received, "a run with nothing missing made calls"
    assert all(proxy.met[fault] for fault in FAULTS), f"choose another seed: {proxy.met}"
    _check_journal(journal, paid)
    _check_result(tmp_path / "out", asked)


def _check_journal(journal, paid):
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    keys = {row["key"] for row in rows}
    assert len(rows) == len(keys) == RECORDS * SAMPLES
    # Every answer that reached us is kept, but for those in flight at a kill.
    assert 0 <= paid - len(rows) <= KILLS * CONCURRENCY


def _check_result(folder, asked):
    answered = list(read_jsonl(folder / "train.jsonl"))
    assert [record.id for record in answered] == [record.id for record in asked]
    assert all(record.input.split()[2] in record.rationale for record in answered)
    assert all(record.llm_label in ("yes", "no") for record in answered)
    rationales = (folder / "rationales.jsonl").read_text().splitlines()
    assert {json.loads(line)["samples"] for line in rationales} == {SAMPLES}
