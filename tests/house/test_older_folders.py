"""Folders written before the code moved into packages are still read.

tests/data/before_packages.zip holds a MODEL_DIR (`run`) and a study folder (`study`), written by
`sbs train` and `sbs study` of the commit before the move with a model of 16 dimensions and 4
updates.
"""

import json
import pathlib
import zipfile

import pytest

from sbs_jax.cli import main
from sbs_jax.configs import gin_loader

pytestmark = pytest.mark.slow

ARCHIVE = pathlib.Path(__file__).parents[1] / "data" / "before_packages.zip"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("older")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def test_a_run_is_evaluated_with_the_same_answers(folders: pathlib.Path) -> None:
    path = folders / "run" / "predictions-demo_label-test-4.jsonl"
    before = [json.loads(line) for line in path.read_text().splitlines()]
    path.unlink()
    flags = [f"--model_dir={folders / 'run'}", "--output_rationale"]
    assert main(["evaluate", *flags]) == 0
    after = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(after) == 6
    assert [
        {name: row[name] for name in old} for old, row in zip(before, after, strict=True)
    ] == before


def test_a_run_continues_by_its_own_config(folders: pathlib.Path) -> None:
    run = folders / "run"
    flags = [f"--gin_file={run / 'config.gin'}", f"--gin.MODEL_DIR='{run}'", "--gin.TRAIN_STEPS=6"]
    assert main(["train", *flags]) == 0
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1] == 6
    assert (run / "checkpoints" / "6").is_dir()


def test_a_config_is_read_back(folders: pathlib.Path) -> None:
    bindings = gin_loader.load([str(folders / "run" / "config.gin")], [])
    assert gin_loader.build("configs.TrainConfig", bindings).model.emb_dim == 16


def test_a_study_is_reported(folders: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert main(["report", f"--runs={folders / 'study'}", f"--out={tmp_path}"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "step-by-step" in page
