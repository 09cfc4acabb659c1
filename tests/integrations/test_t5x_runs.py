"""A run of t5x.train in `sbs evaluate` and `sbs predict`: the answers of t5x.eval and t5x.infer."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from helpers.t5x_runs import files, rows

from sbs_jax.cli import main
from sbs_jax.datasets import registry
from sbs_jax.inference import student
from sbs_jax.utils import paths

import sbs_jax.tasks  # noqa: F401  # isort: skip

if not importlib.util.find_spec("t5x"):
    pytest.skip("needs upstream T5X (docs/t5x.md)", allow_module_level=True)

pytestmark = pytest.mark.slow

UPDATES = 400  # enough for several answers and rationales, too few for all to be right
ENGINES = {"train": "t5x", "eval": "t5x_eval", "infer": "t5x_infer"}
# T5X's network needs what the tests forbid, and its trainer a data axis that divides the rows.
ENVIRONMENT = {"JAX_NUMPY_RANK_PROMOTION": "allow", "XLA_FLAGS": ""}


def t5x(program: str, *bindings: str) -> None:
    """Runs a program of T5X with the demonstration's experiment, as docs/t5x.md launches it."""
    folders = f"{paths.gin_dir() / 'engines' / ENGINES[program]},{paths.gin_dir()}"
    command = [
        *(sys.executable, "-m", f"t5x.{program}", f"--gin_search_paths={folders}"),
        "--gin_file=experiments/demo_step_by_step.gin",
        *(f"--gin.{binding}" for binding in bindings),
    ]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a run of t5x.train, and what t5x.eval and t5x.infer make of its end."""
    made = tmp_path_factory.mktemp("t5x")
    checkpoint = f'CHECKPOINT_PATH="{made}/run/checkpoint_{UPDATES}"'
    steps = [f"TRAIN_STEPS={UPDATES}", f"EVAL_PERIOD={UPDATES}", f"CHECKPOINT_PERIOD={UPDATES}"]
    t5x("train", f'MODEL_DIR="{made}/run"', *steps)
    t5x("eval", f'EVAL_OUTPUT_DIR="{made}/eval"', checkpoint)
    t5x("infer", f'INFER_OUTPUT_DIR="{made}/infer"', checkpoint)
    return made


def test_evaluate_counts_what_t5x_eval_counts(folder: pathlib.Path) -> None:
    before = files(folder / "run")
    assert main(["evaluate", f"--model_dir={folder}/run"]) == 0
    (scored,) = rows(folder / "eval" / "inference_eval" / "demo_label-metrics.jsonl")
    predictions = folder / "run" / f"predictions-demo_label-test-{UPDATES}.jsonl"
    found = rows(predictions)
    assert (sum(row["correct"] for row in found), len(found)) == (scored["correct"], scored["n"])
    teacher = [row["teacher_correct"] for row in found if row["teacher_correct"] is not None]
    assert (sum(teacher), len(teacher)) == (scored["teacher_correct"], scored["teacher_n"])
    assert 0 < scored["correct"] < scored["n"], "a constant student tests little"
    predictions.unlink()
    assert files(folder / "run") == before


def test_predict_gives_the_labels_and_rationales_of_t5x_infer(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    questions = [{"input": record.input} for record in registry.get("demo").read("test")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    flags = [f"--input={tmp_path}/in.jsonl", f"--output={tmp_path}/out.jsonl"]
    assert main(["predict", f"--model_dir={folder}/run", *flags, "--output_rationale"]) == 0
    found = rows(tmp_path / "out.jsonl")
    for task in ("label", "rationale"):
        inferred = rows(folder / "infer" / f"demo_{task}-predict.jsonl-00000-of-00001")
        assert [row[task] for row in found] == [row["prediction"] for row in inferred]
        assert len({row[task] for row in found}) > 1, "a constant student tests little"


def test_the_run_is_described_as_gin_described_it_to_t5x(folder: pathlib.Path) -> None:
    """The settings of `sbs train` with the same files, but for PACK and what the test bound."""
    from sbs_jax.configs import gin_loader

    bindings = ["MODEL_DIR = 'x'", f"TRAIN_STEPS = {UPDATES}", f"EVAL_PERIOD = {UPDATES}"]
    bindings.append(f"CHECKPOINT_PERIOD = {UPDATES}")
    scan = gin_loader.load(["experiments/demo_step_by_step.gin"], bindings)
    wanted = gin_loader.build("configs.TrainConfig", scan)
    run = student.find_run(folder / "run").run
    model_dir = str(folder / "run")
    assert run == dataclasses.replace(wanted, model_dir=model_dir, pack=False)


def test_its_evaluations_are_no_run(
    folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", f"--model_dir={folder}/eval"]) == 2
    said = capsys.readouterr().err
    assert "no checkpoint_STEP is there; give the MODEL_DIR of t5x.train" in said
