"""`sbs annotate` against a scripted server: the fixtures of several modules."""

import functools

import pytest
from helpers import annotate_cli
from helpers.serving import serving
from helpers.stub_server import StubServer


@pytest.fixture
def questions(tmp_path):
    """train.jsonl, the default input of `annotate_cli.run`."""
    return annotate_cli.write_questions(tmp_path / "train.jsonl")


@pytest.fixture
def stub(questions, monkeypatch):
    """A server that answers `questions`, and a key for it."""
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", annotate_cli.SECRET)
    with serving(StubServer(annotate_cli.oracle)) as server:
        yield server


@pytest.fixture
def annotate(stub, tmp_path):
    """Runs `sbs annotate` and returns its exit status; flags as keyword arguments."""
    return functools.partial(annotate_cli.run, stub, tmp_path)
