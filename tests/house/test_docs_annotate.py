"""The sequence in docs/annotate.md, annotate -> train -> evaluate, executed as it stands."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from helpers import xla

from sbs_jax.cli import annotate, review
from sbs_jax.datasets import demo

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "annotate.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="the page's commands are for bash")
def test_annotate_train_evaluate(tmp_path):
    (script,) = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert script.count("\nsbs train ") == 1
    # Shorter than the page's run, in nothing else different.
    script = re.sub(r"(?m)^(sbs train .*)$", r"\1 --gin.TRAIN_STEPS=20", script)
    script = f'set -e\nsbs() {{ "{sys.executable}" -m sbs_jax "$@"; }}\n{script}'
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    environment |= {"XLA_FLAGS": xla.flags(devices=1)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs" / "invented" / "results.json").read_text())
    (test,) = [row for row in results["results"] if row["split"] == "test"]
    right = sum(record.label == record.llm_label for record in demo.records("test"))
    assert (test["teacher"]["correct"], test["teacher"]["n"]) == (right, 600)
    assert test["n"] == 600


def test_every_flag_on_the_page_exists():
    page = PAGE.replace("--gin_file", "").replace("--gin.MODEL_DIR", "").replace("--port", "")
    named = set(re.findall(r"--([a-z_]+)", page)) - {"model_dir"}
    assert named <= {*annotate.FLAGS, *review.FLAGS}
    assert {"shard", "batch_export", "label_given"} <= named
