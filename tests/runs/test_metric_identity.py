"""A metric's identity changes with what it computes, and is the same in every process."""

import functools
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sbs_jax.runs import metric_identity

MODULE = """
import functools
import re

import numpy as np

THRESHOLD = 0.5
ARTICLES = {"a", "an", "the"}
PATTERN = re.compile("[.!]")
SIZE = np.float32


def normalise(text):
    return " ".join(word for word in PATTERN.sub("", text).split() if word not in ARTICLES)


def share(prediction, gold, least=0.1):
    return float(SIZE(len(normalise(prediction)) > THRESHOLD * len(gold)) > least)


def logged(function):
    @functools.wraps(function)
    def wrapper(prediction, gold):
        return function(prediction.lower(), gold)
    return wrapper


@logged
def wrapped(prediction, gold):
    return prediction == gold


class Within:
    def __init__(self, distance):
        self.distance = distance

    def __call__(self, prediction, gold):
        return abs(len(prediction) - len(gold)) <= self.distance

    def method(self, prediction, gold):
        return self(prediction, gold)


def within(distance):
    return lambda prediction, gold: abs(len(prediction) - len(gold)) <= distance
"""


def _load(path: Path, text: str) -> Callable:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("old", "new", "metric", "changes"),
    [
        ("THRESHOLD = 0.5", "THRESHOLD = 0.6", "share", True),
        ('"the"}', '"the", "of"}', "share", True),
        ('"[.!]"', '"[.!?]"', "share", True),
        ('PATTERN.sub("", text)', 'PATTERN.sub(" ", text)', "share", True),
        ("least=0.1", "least=0.2", "share", True),
        ("prediction.lower()", "prediction.upper()", "wrapped", True),
        ("prediction == gold", "prediction in gold", "wrapped", True),
        ("<= self.distance", "< self.distance", "share", False),
        ("THRESHOLD = 0.5", "THRESHOLD = 0.6", "wrapped", False),
        ("import functools", "import functools  # a remark", "share", False),
    ],
)
def test_a_metric_is_its_lines_and_what_they_name(
    tmp_path: Path, old: str, new: str, metric: str, changes: bool
) -> None:
    before = _load(tmp_path / "before.py", MODULE)
    assert old in MODULE
    after = _load(tmp_path / "after.py", MODULE.replace(old, new, 1))
    texts = [metric_identity.texts(getattr(module, metric)) for module in (before, after)]
    assert (texts[0] != texts[1]) == changes


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (lambda m: functools.partial(m.share, least=0.2), lambda m: functools.partial(m.share)),
        (
            lambda m: functools.partial(m.share, least=1),
            lambda m: functools.partial(m.share, least=2),
        ),
        (lambda m: m.Within(1), lambda m: m.Within(2)),
        (lambda m: m.Within(1).method, lambda m: m.Within(2).method),
        (lambda m: m.within(1), lambda m: m.within(2)),
        (lambda m: m.Within([m.share]), lambda m: m.Within((1, {"a": re.compile("x")}))),
        (lambda m: max, lambda m: min),
    ],
)
def test_a_metric_is_what_it_holds(tmp_path: Path, first: Callable, second: Callable) -> None:
    module = _load(tmp_path / "mine.py", MODULE)
    one = metric_identity.texts(first(module))
    assert one == metric_identity.texts(first(module))
    assert one != metric_identity.texts(second(module))


def test_it_is_the_same_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODULE)
    program = (
        "import mine, functools; from sbs_jax.runs.metric_identity import texts; "
        "print(texts(mine.share), texts(mine.Within({3, 1, 2})), texts(mine.wrapped), "
        "texts(functools.partial(mine.share, least={'b': 1, 'a': (2, None)})))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1 and "0x" not in said.pop()


def test_a_metric_that_names_itself_ends(tmp_path: Path) -> None:
    text = "def mine(p, g):\n    return p == g or mine(p[1:], g)\n"
    assert metric_identity.texts(_load(tmp_path / "m.py", text).mine)[0] == "mine"
