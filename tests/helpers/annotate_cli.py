"""`sbs annotate` on a handful of questions against a stub server, for the tests that need it."""

import contextlib
import json
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

from helpers.stub_server import Call, Raw, StubServer
from sbs_jax.cli import main
from sbs_jax.datasets import demo
from sbs_jax.datasets.records import Record, write_jsonl

DISTINCT = 10
SECRET = (
    "sk-very-secret-0123456789"  # the key that fixtures set, to be looked for where none may be
)


def oracle(call: Call, sample: int) -> str:
    """Answers a demo question by its length: right or wrong, but always the same."""
    question = call.text.rpartition("Q: ")[2].partition("\n")[0]
    label = "yes" if len(question) % 2 else "no"
    return f"it is {question.split()[2]} . So the answer is {label}."


def write_questions(path: pathlib.Path) -> pathlib.Path:
    """Twelve records, the last two of which ask what the first two ask."""
    records = demo.questions("train")[:DISTINCT]
    again = [Record(f"again{i}", records[i].input, records[i].label) for i in range(2)]
    write_jsonl(path, [*records, *again])
    return path


def run(stub: StubServer, folder: pathlib.Path, **changes: Any) -> int:
    """Annotates FOLDER/train.jsonl into FOLDER/out; more flags as keyword arguments."""
    values = {
        "task": "demo",
        "input": folder / "train.jsonl",
        "out": folder / "out",
        "base_url": stub.base_url,
        "model": "m",
        "max_retries": 1,
        "timeout": 5,
    } | changes
    return main(["annotate", *(f"--{k}={v}" for k, v in values.items() if v is not None)])


def rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@contextlib.contextmanager
def gathering(stub: StubServer, expected: int) -> Iterator[list[int]]:
    """Holds calls back until `expected` are in flight; gives how many were, at every arrival."""
    lock, enough = threading.Lock(), threading.Event()
    inside, arrivals = 0, []
    respond = stub.respond

    def held(call: Call) -> Raw:
        nonlocal inside
        with lock:
            inside += 1
            arrivals.append(inside)
            if inside >= expected:
                enough.set()
        enough.wait(10)
        raw = respond(call)
        with lock:
            inside -= 1
        return raw

    stub.respond = held
    try:
        yield arrivals
    finally:
        stub.respond = respond
