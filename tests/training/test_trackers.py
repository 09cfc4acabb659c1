"""--tracker: Weights & Biases without a network, MLflow in a folder, and packages that are missing.

The first two run where wandb and mlflow-skinny are installed (pip install 'sbs_jax[wandb,mlflow]').
"""

import json
import sys

import pytest
from helpers.runs import config_of

from sbs_jax.cli import main
from sbs_jax.training.metrics_writer import MetricsLog


@pytest.fixture
def config(tmp_path):
    made = config_of(tmp_path / "run")
    (tmp_path / "run").mkdir()
    return made


def two_starts(config, tracker):
    """Steps 1 and 2, then a restart after step 1."""
    for start, steps in ((0, (1, 2)), (1, (2, 3))):
        log = MetricsLog(config, start, tracker)
        for step in steps:
            log.write(step, {"loss": 1 / 2**step, "label/loss": 0.5})
        log.close()


def ids(config, tmp_path):
    return json.loads((tmp_path / "run" / "tracker.json").read_text())


def test_wandb_gets_the_scalars_offline_under_one_id(config, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    two_starts(config, "wandb")
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert {path.name for path in files} == {f"run-{ids(config, tmp_path)['wandb']}.wandb"}
    assert all(b"label/loss" in path.read_bytes() for path in files) and files


def test_mlflow_gets_the_scalars_in_one_run(config, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    two_starts(config, "mlflow")
    client = mlflow.MlflowClient()
    run = ids(config, tmp_path)["mlflow"]
    history = client.get_metric_history(run, "loss")
    assert {(point.step, point.value) for point in history} == {(1, 0.5), (2, 0.25), (3, 0.125)}
    assert client.get_run(run).data.params["batch_size"] == "8"


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_one_line_before_anything_is_written(
    tmp_path, monkeypatch, capsys, name
):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.chdir(tmp_path)
    flags = ["--gin_file=experiments/demo_step_by_step.gin", "--model_dir=run"]
    assert main(["train", *flags, f"--tracker={name}"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        f"sbs: error: --tracker={name}: {name} is missing; pip install 'sbs_jax[{name}]'"
    )
    assert list(tmp_path.iterdir()) == []
