"""The README's commands, executed in order in an empty folder."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from helpers import fixtures_release, sentencepiece_models, xla

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What the reader has and this test has not: a network, pretrained weights, ten thousand steps.
SMALL = [
    "--gin_file=sbs_models/mini.gin",
    "--gin.VOCABULARY='spiece.model'",
    "--gin.VOCAB_SIZE=256",
    "--gin.TASK_FEATURE_LENGTHS={'inputs': 128, 'targets': 64}",
    "--gin.TRAIN_STEPS=4",
    "--gin.EVAL_PERIOD=4",
    "--gin.BATCH_SIZE=4",
]
SMALL_ON_ANY_DATA = {"--gin.TRAIN_STEPS", "--gin.EVAL_PERIOD", "--gin.BATCH_SIZE"}
INSTEAD = {
    "data": ["--release=archive"],
    "tasks": ["--vocabulary=spiece.model"],
    "train": SMALL,
    "study": ["--dry_run"],  # test_study.py runs one
}


def commands() -> list[list[str]]:
    """The indented lines that begin with sbs, continued lines joined; those with ... left out.

    `sbs serve` does not end: test_serve.py starts it.
    """
    text = README.replace("\\\n", " ")
    found = re.findall(r"^    (sbs .*)$", text, re.MULTILINE)
    return [shlex.split(line) for line in found if "..." not in line and "sbs serve" not in line]


def instead(verb: str, arguments: list[str]) -> list[str]:
    """What is added to a command so that it ends soon, without a network."""
    if arguments[0].startswith("--records"):
        return [argument for argument in SMALL if argument.partition("=")[0] in SMALL_ON_ANY_DATA]
    return INSTEAD.get(verb, [])


def write_reviews(path: pathlib.Path) -> None:
    lines = [f"item {i} is {('bad', 'good')[i % 2]},{(1, 5)[i % 2]},so it says" for i in range(60)]
    path.write_text("\n".join(["review,stars,why", *lines]) + "\n")


def test_the_readme_opens_with_the_command_that_works():
    assert re.search(r"^    make demo$", "\n".join(README.splitlines()[:5]), re.MULTILINE)


@pytest.mark.slow
def test_every_command_of_the_readme_works(tmp_path):
    fixtures_release.write_release(tmp_path / "archive")
    texts = [path.read_text() for path in sorted((tmp_path / "archive").rglob("*.json"))]
    lines = [line for text in texts for line in text.splitlines()]
    sentencepiece_models.train(
        tmp_path / "spiece.model", lines, vocab_size=150, hard_vocab_limit=False
    )
    write_reviews(tmp_path / "reviews.csv")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment |= {"XLA_FLAGS": xla.flags(devices=1)}
    verbs = []
    for _, verb, *arguments in commands():
        verbs.append(verb)
        done = subprocess.run(
            [sys.executable, "-m", "sbs_jax", verb, *arguments, *instead(verb, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"sbs {verb} {arguments}: {done.stderr}"
    own = ["train", "evaluate", "export"]
    steps = ["data", "tasks", "train", "evaluate", "train", "export", "export", "report", "study"]
    assert verbs == [*own, *steps]
    results = json.loads((tmp_path / "runs" / "cqa" / "results.json").read_text())
    assert {row["split"]: row["n"] for row in results["results"]}["test"] == fixtures_release.TEST
    assert (tmp_path / "report" / "report.html").exists()
    test = next(row for row in results["results"] if row["split"] == "test")
    for folder in ("students", "programs"):
        page = (tmp_path / folder / "cqa" / "README.md").read_text()
        assert f"({test['correct']}/{test['n']})" in page


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_linked_files_exist(link):
    assert (ROOT / link).exists()
