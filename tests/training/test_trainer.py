"""Whole runs on the embedded dataset: learning, resuming, stopping, refusing."""

import dataclasses
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import MODEL, config_of, final_params, metrics_of

from sbs_jax.configs import OptimizerConfig, PartitionerConfig
from sbs_jax.errors import UserError
from sbs_jax.inference import evaluate, student
from sbs_jax.input_pipeline import pipeline
from sbs_jax.runs import run_dir
from sbs_jax.training import trainer

importlib.import_module("sbs_jax.tasks")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run from start to end."""
    model_dir = tmp_path_factory.mktemp("whole") / "run"
    trainer.train(config_of(model_dir), operative_config="# gin\n")
    return model_dir


def test_a_run_leaves_what_the_contract_says(whole):
    rows = metrics_of(whole)
    assert [row["step"] for row in rows] == [1, 2, 4, 6, 8, 10, 12]
    assert rows[-1]["label/loss"] < rows[0]["label/loss"]
    assert rows[-1]["rationale/loss"] < rows[0]["rationale/loss"]
    assert {"learning_rate", "grad_norm", "examples_per_second"} <= rows[0].keys()
    assert rows[0]["loss"] == pytest.approx(
        (rows[0]["label/loss"] + rows[0]["rationale/loss"]) / 2, rel=1e-5
    )
    assert rows[0]["learning_rate"] == pytest.approx(1e-2)
    assert (whole / "config.gin").read_text() == "# gin\n"
    assert list((whole / "train").glob("events*"))
    results = json.loads((whole / "results.json").read_text())
    by_split = {row["split"]: row for row in results["results"]}
    assert by_split["test"]["n"] == by_split["test"]["teacher"]["n"] == 20
    assert by_split["test"]["task"] == "demo_label"
    assert results["metric"] == "text"
    path = whole / f"predictions-demo_label-test-{results['step']}.jsonl"
    predictions = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({row["id"] for row in predictions}) == 20
    assert sum(row["correct"] for row in predictions) == by_split["test"]["correct"]
    assert set(predictions[0]) == {
        "id",
        "input",
        "gold",
        "label",
        "correct",
        "rationale",
        "teacher_label",
        "teacher_correct",
        "teacher_rationale",
        "confidence",
        "label_probabilities",
    }


def test_the_best_checkpoint_on_validation_is_the_one_scored(whole):
    lines = map(json.loads, (whole / "metrics.jsonl").read_text().splitlines())
    validation = {r["step"]: r["validation/accuracy"] for r in lines if "validation/accuracy" in r}
    assert sorted(validation) == [4, 8, 12]
    best = max(validation, key=lambda step: (validation[step], step))
    assert json.loads((whole / "results.json").read_text())["step"] == best


def test_a_finished_run_is_not_done_again(whole, capsys):
    before = (whole / "results.json").stat().st_mtime_ns
    trainer.train(config_of(whole))
    assert (whole / "results.json").stat().st_mtime_ns == before
    assert "already complete" in capsys.readouterr().err


def test_rationales_asked_for_later_are_written(whole, tmp_path, capsys):
    run = shutil.copytree(whole, tmp_path / "run")
    step = json.loads((run / "results.json").read_text())["step"]
    explained = config_of(run, output_rationale=True)
    trainer.train(explained)
    assert "no rationales were written; scoring again" in capsys.readouterr().err
    path = run / f"predictions-demo_label-test-{step}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(isinstance(row["rationale"], str) for row in rows)
    trainer.train(explained)
    assert "already complete" in capsys.readouterr().err


@pytest.mark.slow
def test_a_damaged_best_checkpoint_gives_way_to_the_next_best(tmp_path, capsys):
    """Of steps 4, 8 and 12, ranked in this order, the first two get damaged."""
    config = config_of(tmp_path / "run", keep_latest=3)
    trainer.train(config)
    folder = tmp_path / "run" / "checkpoints"
    scores = json.loads((folder / "scores.json").read_text())
    for step, value in (("4", 0.9), ("8", 0.8), ("12", 0.7)):
        scores[step]["accuracy"] = value
    (folder / "scores.json").write_text(json.dumps(scores))
    (tmp_path / "run" / "results.json").unlink()
    for damaged, used in ((4, 8), (8, 12)):
        largest = max((folder / str(damaged)).rglob("d/*"), key=lambda path: path.stat().st_size)
        largest.write_bytes(b"")
        capsys.readouterr()
        assert trainer.train(config)["step"] == used
        printed = capsys.readouterr().err
        assert f"warning: {folder}/{damaged}: damaged (" in printed
        assert f"step 4 is damaged; step {used}, the next best, takes its place" in printed
    trainer.train(config)
    assert "already complete" in capsys.readouterr().err
    with pytest.raises(
        UserError,
        match=r"/4: damaged .*; copy it again, or take .*/12, which is intact \(--step=12\)",
    ):
        evaluate.evaluate_split(tmp_path / "run", "test", None, output_rationale=False)


def test_a_stopped_run_continues_to_the_same_parameters(whole, tmp_path, monkeypatch):
    model_dir = tmp_path / "run"
    real, calls = trainer.iterate, []

    def stop_after_five(*args: object, **named: object) -> object:
        for index, batch in real(*args, **named):
            calls.append(index)
            if len(calls) == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield index, batch

    monkeypatch.setattr(trainer, "iterate", stop_after_five)
    with pytest.raises(SystemExit) as stopped:
        trainer.train(config_of(model_dir))
    assert stopped.value.code == 143
    trainer.train(config_of(model_dir))
    assert calls == list(range(12)), "no step is done twice or left out"
    for once, again in zip(final_params(whole), final_params(model_dir), strict=True):
        np.testing.assert_array_equal(once, again)
    assert [row["step"] for row in metrics_of(model_dir)] == [1, 2, 4, 6, 8, 10, 12]


def test_a_run_of_another_model_or_setting_is_refused_with_the_difference(whole):
    with pytest.raises(UserError, match=r"alpha was 0\.5, now 0\.25; choose another MODEL_DIR"):
        trainer.train(config_of(whole, alpha=0.25))
    other = dataclasses.replace(MODEL, emb_dim=32)
    with pytest.raises(UserError, match=r"holds another run: model\.emb_dim was 16, now 32"):
        trainer.train(config_of(whole, model=other))


def test_a_folder_belongs_to_one_run_at_a_time(whole):
    config = config_of(whole)
    fingerprints = pipeline.Source.of(config).fingerprints()
    with (
        run_dir.claimed(config, fingerprints, ""),
        pytest.raises(UserError, match=r"MODEL_DIR .*: another process is working there; wait"),
    ):
        trainer.train(config)
    trainer.train(config)  # free again


def test_fewer_updates_than_are_done_are_refused(whole):
    before = (whole / "run.json").read_text()
    with pytest.raises(UserError, match=r"TRAIN_STEPS = 4: .* has done 12 updates already"):
        trainer.train(config_of(whole, train_steps=4))
    assert (whole / "run.json").read_text() == before


def test_foreign_checkpoints_are_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "checkpoint_100").mkdir()
    with pytest.raises(UserError, match="holds checkpoints of something else"):
        trainer.train(config_of(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint_100"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture_or_task_name": "demo_step_by_stap"}, "did you mean demo_step_by_step"),
        ({"vocabulary": "nowhere.model"}, "VOCABULARY = 'nowhere.model': no such file"),
        ({"model": dataclasses.replace(MODEL, vocab_size=64)}, "set VOCAB_SIZE"),
        ({"initial_checkpoint_path": "nowhere"}, "INITIAL_CHECKPOINT_PATH nowhere"),
        ({"row_lengths": (4, 24)}, "a row holds 4"),
        ({"model_dir": "s3://bucket/run"}, "MODEL_DIR s3://bucket/run: only local folders and gs"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        trainer.train(dataclasses.replace(config_of(tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_and_names_step_and_questions(tmp_path):
    wild = OptimizerConfig(learning_rate=1e30, clip_norm=None)
    with pytest.raises(UserError, match=r"step \d+: the loss or its gradient is not finite"):
        trainer.train(config_of(tmp_path / "run", optimizer=wild))


@pytest.mark.slow
def test_meshes_and_packing_do_not_change_the_run(whole, tmp_path):
    changed = config_of(
        tmp_path / "run",
        partitioner=PartitionerConfig(num_partitions=2, fsdp=2, num_microbatches=2),
        model=dataclasses.replace(MODEL, dropout_rate=0.0),
        train_steps=4,
    )
    trainer.train(changed)
    plain = dataclasses.replace(
        changed,
        model_dir=str(tmp_path / "plain"),
        partitioner=PartitionerConfig(),
        pack=False,
        row_lengths=None,
    )
    trainer.train(plain)
    for a, b in zip(metrics_of(tmp_path / "run"), metrics_of(tmp_path / "plain"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-5)


@pytest.mark.slow
def test_the_path_to_a_trained_student_needs_no_tensorflow(tmp_path):
    """A child whose imports of TensorFlow and SeqIO fail trains from JSONL to results."""
    script = f"""
import sys
for name in ("tensorflow", "seqio", "tensorflow_datasets", "tensorflow_text"):
    sys.modules[name] = None  # as if it were not installed
from sbs_jax.cli import main
sys.exit(main(["train", "--gin_file=experiments/demo_step_by_step.gin",
    "--gin.MODEL_DIR='{tmp_path / "run"}'", "--gin.TRAIN_STEPS=3", "--gin.EVAL_PERIOD=3",
    "--gin.EVALUATOR_NUM_EXAMPLES=8", "--gin.OUTPUT_RATIONALE=False"]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "results.json").exists()
    reloaded = (tmp_path / "run" / "config.gin").read_text()
    assert "TRAIN_STEPS = 3" in reloaded


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_continues(tmp_path):
    command = [
        sys.executable,
        "-m",
        "sbs_jax.train",
        "--gin_file=experiments/demo_finetune.gin",
        f"--gin.MODEL_DIR='{tmp_path / 'run'}'",
        "--gin.TRAIN_STEPS=100000",
        "--gin.EVAL_PERIOD=100000",
        "--gin.TrainConfig.log_period=1",
    ]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if line.startswith("step 3/"):
            break
    asked = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, rest = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "saved; the same command continues" in rest
    assert time.monotonic() - asked < 30
    saved = [int(path.name) for path in (tmp_path / "run" / "checkpoints").glob("[0-9]*")]
    assert len(saved) == 1 and saved[0] >= 3


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_starts_from_the_same_parameters(
    whole, tmp_path, capsys
):
    config = config_of(tmp_path / "run", initial_checkpoint_path=str(whole), train_steps=2)
    with run_dir.claimed(config, pipeline.Source.of(config).fingerprints(), ""):
        pass  # killed here
    (tmp_path / "run" / "checkpoints" / "4.orbax-checkpoint-tmp-1").mkdir(parents=True)
    trainer.train(config)
    assert f"starts from {whole}" in capsys.readouterr().err
    assert metrics_of(tmp_path / "run")[0]["loss"] < metrics_of(whole)[-1]["loss"] + 0.5


def test_evaluate_scores_the_best_checkpoint_again(whole, capsys):
    results = json.loads((whole / "results.json").read_text())
    test_row = next(row for row in results["results"] if row["split"] == "test")
    result = evaluate.evaluate_split(whole, "test", None, output_rationale=True)
    assert result.accuracy.to_json()["correct"] == test_row["correct"]
    assert all(isinstance(row["rationale"], str) for row in result.predictions)
    assert "demo_label test: teacher" in capsys.readouterr().err
    assert student.find_run(whole).checkpoint.step == results["step"]


def test_evaluate_names_what_is_missing(whole, tmp_path):
    with pytest.raises(UserError, match=r"no run\.json; give the MODEL_DIR"):
        evaluate.evaluate_split(tmp_path, "test", None, False)
    with pytest.raises(UserError, match="no usable checkpoint of step 7; has"):
        evaluate.evaluate_split(whole, "test", 7, False)


def test_evaluate_asks_no_student_of_labels_for_rationales(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    fields = json.loads((run / "run.json").read_text())
    fields["mixture_or_task_name"] = "demo_finetune"
    (run / "run.json").write_text(json.dumps(fields))
    with pytest.raises(
        UserError, match=r"--output_rationale: .* was not trained to give rationale"
    ):
        evaluate.evaluate_split(run, "test", None, output_rationale=True)


@pytest.mark.slow
def test_more_train_steps_continue_a_run(whole, tmp_path, capsys):
    model_dir = tmp_path / "run"
    shutil.copytree(whole, model_dir)
    summary = trainer.train(config_of(model_dir, train_steps=16))
    assert "TRAIN_STEPS was 12, now 16" in capsys.readouterr().err
    assert summary["train_steps"] == 16
    assert metrics_of(model_dir)[-1]["step"] == 16
