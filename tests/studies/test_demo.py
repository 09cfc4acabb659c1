"""`sbs demo` on a small grid: annotate, train in worker processes, evaluate, report, resume."""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from sbs_jax.cli import main
from sbs_jax.configs import gin_loader
from sbs_jax.datasets import demo as demo_data
from sbs_jax.datasets import records, registry
from sbs_jax.errors import UserError
from sbs_jax.studies import demo
from sbs_jax.studies.demo import Arm, Grid

pytestmark = pytest.mark.slow

TINY = Grid(
    arms=(Arm("standard", "finetune"), Arm("step_by_step", "step_by_step")),
    fractions=(0.5,),
    seeds=(0,),
    bindings=("TRAIN_STEPS = 30", "WARMUP_STEPS = 3"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[pathlib.Path, str, str]:
    """(folder, what was printed, what was told on the way) of the tiny grid."""
    out = tmp_path_factory.mktemp("demo") / "out"
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        text = demo.run(out, TINY)
    return out, text, told.getvalue()


def rows_of(out: pathlib.Path) -> dict[str, dict]:
    lines = (out / "study.jsonl").read_text().splitlines()
    return {row["arm"]: row for row in map(json.loads, lines)}


def test_the_teacher_is_read_by_the_parser(finished):
    out, _, told = finished
    for split in ("train", "validation", "test"):
        kept = list(records.read_jsonl(out / "data" / "demo-seed0" / f"{split}.jsonl"))
        assert kept == list(demo_data.records(split, 0))
    assert "train annotated by the embedded teacher, teacher accuracy 0.9" in told


def test_a_row_for_every_run(finished):
    out, _, _ = finished
    rows = rows_of(out)
    assert rows.keys() == {"standard", "step_by_step"}
    guess = demo_data.verb_baseline(demo_data.questions("train")[:400], demo_data.questions("test"))
    for row in rows.values():
        assert (row["n"], row["steps"], row["train_examples"]) == (600, 30, 400)
        assert row["majority"]["correct"] == guess.correct
        assert row["teacher"]["n"] == 600
        assert row["cpu_seconds"] > 0
        results = json.loads((out / row["model_dir"] / "results.json").read_text())
        scored = next(r for r in results["results"] if r["split"] == "test")
        assert scored["correct"] == row["correct"]


def test_the_report_shows_table_picture_and_samples(finished):
    out, text, _ = finished
    assert "400 (50%)  step-by-step" in text
    assert demo.BASELINE in text
    assert "These are not the paper's numbers" in text
    assert (out / "accuracy.png").stat().st_size > 10_000
    page = (out / "report.html").read_text()
    assert "can a " in page and "it is a " in page, "questions with the student's rationales"


def test_progress_ends_with_nothing_left(finished):
    _, _, told = finished
    lines = [line for line in told.splitlines() if line.startswith("[")]
    assert [line[:5] for line in lines] == ["[1/2]", "[2/2]"]
    assert "ETA 0:00:00" in lines[-1]


def test_a_second_start_only_reports(finished):
    out, text, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        assert demo.run(out, TINY) == text
    assert "2 of 2 runs are finished already" in told.getvalue()
    assert {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")} == before


def test_other_settings_in_the_same_folder_are_refused(finished):
    out, _, _ = finished
    with pytest.raises(
        UserError, match=r"study\.jsonl:1: .* was run with other settings: train_steps"
    ):
        demo.run(out, Grid(arms=TINY.arms, fractions=(0.5,), seeds=(0,)))


def test_a_student_is_evaluated_asked_and_exported(finished, tmp_path, capsys):
    """Where nothing knows of the demo: its config.gin tells the dataset."""
    out, _, _ = finished
    model_dir = out / rows_of(out)["step_by_step"]["model_dir"]
    moved = tmp_path / "run"
    shutil.copytree(model_dir, moved)
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    command = [sys.executable, "-m", "sbs_jax", "evaluate", "--model_dir", str(moved)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    row = rows_of(out)["step_by_step"]
    assert f"({row['correct']}/{row['n']})" in done.stderr
    assert main(["export", "--to=hf", str(model_dir), str(tmp_path / "hf")]) == 0
    page = (tmp_path / "hf" / "README.md").read_text()
    assert f"({row['correct']}/{row['n']})" in page
    assert "sbs train --gin_file=config.gin" in page
    (tmp_path / "in.jsonl").write_text('{"input": "can a bavik trosk ?"}\n')
    flags = [f"--model_dir={model_dir}", f"--input={tmp_path / 'in.jsonl'}"]
    capsys.readouterr()
    assert main(["predict", *flags]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in ("yes", "no")


def test_a_runs_gin_text_gives_its_configuration_again(tmp_path):
    demo.annotate(tmp_path, 7)
    arm = Arm("standard", "finetune")
    run = demo.cell(tmp_path, arm, demo.settings("finetune"), 0.5, 7)
    (tmp_path / "config.gin").write_text(run.config_gin)
    found = gin_loader.load([str(tmp_path / "config.gin")], ["MODEL_DIR = 'elsewhere'"])
    config = gin_loader.build("configs.TrainConfig", found)
    assert config == dataclasses.replace(run.config, model_dir="elsewhere")
    assert "demo_seed7" in registry.names()


def test_the_settings_are_those_of_the_experiment_files():
    standard, ours = demo.settings("finetune"), demo.settings("step_by_step")
    assert standard.train_steps == ours.train_steps, "the comparison is at equal updates"
    assert standard.model == ours.model and standard.batch_size == ours.batch_size
    assert demo.settings("finetune", ["WEIGHT_DECAY = 0.25"]).optimizer.weight_decay == 0.25


def test_the_grid_has_the_cells_of_the_contract(tmp_path):
    grid = Grid()
    assert [arm.name for arm in grid.arms] == ["standard", "standard_2x", "step_by_step"]
    assert (grid.fractions, grid.seeds) == ((0.25, 0.5, 1.0), (0, 1, 2))
    demo.annotate(tmp_path, 0)
    once, twice = (
        demo.cell(tmp_path, arm, demo.settings("finetune"), 0.25, 0) for arm in grid.arms[:2]
    )
    assert twice.config.train_steps == 2 * once.config.train_steps
    assert once.config.optimizer == twice.config.optimizer


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done_and_leaves_no_process(tmp_path):
    """The real command: interrupted in the middle of training it ends 130 with states saved."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "sbs_jax", "demo", "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 240
        while not any('"step": 100,' in log.read_text() for log in out.rglob("metrics.jsonl")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.3)
        workers = children(process.pid)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "0 of 27 runs are finished; the same command continues" in told
    deadline = time.monotonic() + 10  # multiprocessing's own helper ends a moment later
    while any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "stopped at step" in "".join(log.read_text() for log in out.rglob("worker-*.log"))


def children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return [int(line) for line in listed.stdout.split()]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"sbs: error: --out {tmp_path}/file/out: cannot be ")
    assert os.listdir(tmp_path) == ["file"]
