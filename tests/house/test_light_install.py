"""requirements/light.txt: the core without TensorFlow, which trains and serves from records."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
TENSORFLOW = {"seqio", "tensorflow-datasets", "tensorflow-text", "importlib-resources"}

# In a child process: these cannot be imported, as if they were not installed.
BLOCK = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5", "tf_keras"):
    sys.modules[name] = None
from sbs_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _pairs(lines: list[str]) -> dict[str, str]:
    requirements = map(Requirement, lines)
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def test_the_list_is_the_core_without_tensorflow() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = _pairs(project["dependencies"])
    text = (ROOT / "requirements" / "light.txt").read_text()
    light = _pairs(re.findall(r"^[^#\n].*$", text, re.MULTILINE))
    assert light == {name: bound for name, bound in core.items() if name not in TENSORFLOW}
    assert core.keys() >= TENSORFLOW


@pytest.mark.slow
def test_a_table_is_trained_on_without_tensorflow(tmp_path: Path) -> None:
    rows = [f"item {i} is {('bad', 'good')[i % 2]},{(1, 5)[i % 2]},so" for i in range(60)]
    (tmp_path / "reviews.csv").write_text("\n".join(["review,stars,why", *rows]) + "\n")
    columns = ["--text=review", "--label=stars", "--rationale=why"]
    small = ["TRAIN_STEPS=2", "EVAL_PERIOD=2", "BATCH_SIZE=8", "configs.T5Config.emb_dim=16"]
    commands = [
        ["train", "--records=reviews.csv", *columns, *(f"--gin.{text}" for text in small)],
        ["evaluate", "--model_dir=runs/reviews"],
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SBS_CACHE_DIR": str(tmp_path / "cache")}
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-c", BLOCK, *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs" / "reviews" / "results.json").read_text())
    assert results["mixture"] == "reviews_step_by_step"
