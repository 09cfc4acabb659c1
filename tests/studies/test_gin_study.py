"""Studies that a gin file describes: what they train, choose, need and refuse."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest
from helpers.runs import config_of

from sbs_jax.cli import main
from sbs_jax.models import costs
from sbs_jax.runs import run_dir
from sbs_jax.studies import choices, demo
from sbs_jax.studies.cells import Run
from sbs_jax.utils import files


def read_rows(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "study.jsonl").read_text().splitlines()]


STUDY = """
from __gin__ import dynamic_registration
from sbs_jax import configs
STUDY_DIR = %gin.REQUIRED
configs.StudyConfig:
  study_dir = %STUDY_DIR
  arms = {
      "standard": "experiments/demo_finetune.gin",
      "step_by_step": ["experiments/demo_step_by_step.gin", "small.gin"],
  }
  fractions = (0.05,)
  seeds = (0, 1)
  bindings = [
      "TRAIN_STEPS = 4",
      "EVAL_PERIOD = 2",
      "EVALUATOR_NUM_EXAMPLES = 20",
      "T5Config.num_encoder_layers = 1",
      "T5Config.num_decoder_layers = 1",
      "TrainConfig.max_decode_length = 2",
  ]
  arm_bindings = {"step_by_step": ["ALPHA = 0.25"]}
  workers = 2
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    """A working directory with a study of small runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gin").write_text(STUDY)
    (tmp_path / "small.gin").write_text("OUTPUT_RATIONALE = False\n")
    return tmp_path


GIVEN = ["study", "--gin_file=x.gin", "--gin.STUDY_DIR='made'"]


@pytest.mark.slow
def test_a_study_from_gin_trains_reports_and_is_not_done_twice(here, capsys):
    assert main(GIVEN) == 0
    printed = capsys.readouterr()
    assert "step-by-step minus standard" in printed.out and "[4/4]" in printed.err
    assert "no pretrained model was used" in printed.out
    rows = [json.loads(line) for line in (here / "made" / "study.jsonl").read_text().splitlines()]
    found = sorted((row["arm"], row["fraction"], row["seed"], row["n"]) for row in rows)
    assert found == [(arm, 0.05, s, 20) for arm in ("standard", "step_by_step") for s in (0, 1)]
    run = here / "made" / "runs" / "step_by_step-5pct-seed1"
    assert run_dir.load(run).alpha == 0.25 and run_dir.load(run).random_seed == 1
    assert (here / "made" / "report.html").is_file()
    assert main(["evaluate", f"--model_dir={run}", "--split=validation"]) == 0
    capsys.readouterr()
    assert main(GIVEN) == 0
    assert "4 of 4 runs are finished already" in capsys.readouterr().err


def works(pid: str) -> bool:
    """Whether a process is there, and is no zombie."""
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() != b""
    return False


@pytest.mark.slow
def test_two_machines_with_one_folder_train_it_together(here):
    """One is killed in its first run; the other takes over what that one had, and both agree."""
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])}
    given = [*GIVEN, "--gin.StudyConfig.shared=True", "--gin.StudyConfig.workers=1"]
    command = [sys.executable, "-m", "sbs_jax", *given]
    ends = {"env": environment, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **ends) as killed:
        for line in killed.stderr:
            if "The first takes longest" in line:
                break
        deadline = time.monotonic() + 120
        while not list((here / "made" / "claims").glob("*seed*.0")):
            assert time.monotonic() < deadline
        children = pathlib.Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text()
        killed.kill()
    while any(map(works, children.split())):
        assert time.monotonic() < deadline, "the worker of a killed study does not end"
        time.sleep(0.1)
    (sign,) = (here / "made" / "claims").glob("*.alive")
    os.utime(sign, (0, 0))  # five minutes are over
    with subprocess.Popen(command, **ends) as one, subprocess.Popen(command, **ends) as other:
        said = [process.communicate()[1] for process in (one, other)]
    assert (one.returncode, other.returncode) == (0, 0), said
    rows = read_rows(here / "made")
    assert len(rows) == 4 and not any("error" in row for row in rows)
    done = [re.findall(r"\[\d/4\] (.+?, seed \d)", text) for text in said]
    assert len({*done[0], *done[1]}) == len(done[0]) + len(done[1]) == 4
    claims = (here / "made" / "claims").glob("*seed*")
    assert not any(claim.read_text() for claim in claims), "all claims are given up"


def test_a_study_is_one_process_s_at_a_time(here, capsys):
    (here / "made").mkdir()
    with files.locked(here / "made", "test"):
        assert main(GIVEN) == 2
    said = capsys.readouterr().err
    assert said.endswith(
        "another process is working there; wait for it, or choose another folder\n"
    )


def test_a_study_may_be_looked_at_first(here, capsys):
    assert main([*GIVEN, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("4 runs in made, 2 at a time\n")
    assert "step_by_step-5pct-seed1  demo_step_by_step: 4 updates of 32 questions" in printed
    assert sorted(path.name for path in here.iterdir()) == ["small.gin", "x.gin"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--gin.StudyConfig.seeds=(0, 0)", "seeds = (0, 0): must be values, each once"),
        ("--gin.StudyConfig.alphas=(0.5, 0.5)", "alphas = (0.5, 0.5): must be numbers"),
        ("--gin.StudyConfig.datasets=('a', 'a')", "datasets = ('a', 'a'): must be names"),
        ("--gin.StudyConfig.arms={}", "arms = {}: must be"),
        ("--gin.StudyConfig.bindings=['TRAIN_STEP = 4']", "arm 'standard': --gin.TRAIN_STEP"),
        (
            "--gin.StudyConfig.arms={'step_by_step': 'gone.gin'}",
            "arm 'step_by_step': --gin_file: no gin",
        ),
        (
            "--gin.StudyConfig.fractions=(0.33333331, 0.33333332)",
            "fractions: 0.33333331 and 0.33333332 would both be in ",
        ),
        (
            "--gin.StudyConfig.alphas=(0.33333331, 0.33333332)",
            "alphas: 0.33333331 and 0.33333332 would both be in ",
        ),
        ("--gin.StudyConfig.equal='time'", "equal = 'time': must be one of updates, compute"),
        ("--gin.StudyConfig.choices={'RANDOM_SEED': (1, 2)}", "must be without MODEL_DIR"),
        ("--gin.StudyConfig.choices={'ALPHA': ()}", "choices['ALPHA'] = (): must be values"),
        (
            "--gin.StudyConfig.bindings=['TrainConfig.random_seed = 7']",
            "arm 'standard': its files or bindings fix what the study sets itself, MODEL_DIR",
        ),
        ("--gin.StudyConfig.arm_bindings={'b': []}", "must be about one of the arms, standard"),
    ],
)
def test_a_mistake_in_a_study_is_one_line(here, capsys, change, message):
    assert main([*GIVEN, change]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.splitlines()) == 1
    assert not (here / "made").exists()


def dry_run(capsys, *flags: str) -> list[str]:
    assert main([*GIVEN, *flags, "--dry_run"]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_dry_run_tells_time_memory_and_money(here, capsys):
    flags = ["--device_tflops=1e-3", "--device_price=3"]
    needs, memory = dry_run(capsys, *flags)[-2:]
    assert needs.startswith("together 16 updates, about ") and "at most" in needs
    hours, money = re.search(
        r"([\d.e-]+) device hours at 0.001 TFLOP/s, ([\d.]+) at 3", needs
    ).groups()
    flop = float(re.search(r"about ([\d.e+]+) FLOP", needs)[1])
    assert float(hours) == pytest.approx(flop / 1e9 / 3600, rel=0.05)
    assert float(money) == pytest.approx(3 * float(hours), abs=0.01)
    assert re.search(r"about [\d.]+[kM] parameters with adamw: [\de.-]+ GB", memory)


def steps(lines: list[str]) -> dict[str, int]:
    """Arm -> updates, of seed 0."""
    found = (re.search(r"runs/(\w+)-5pct-seed0 .*: (\d+) updates", line) for line in lines)
    return {match[1]: int(match[2]) for match in found if match}


def test_equal_compute_gives_the_cheaper_arm_more_updates(here, capsys):
    """By the demonstration's lengths: 6 tokens in, 7 with a prefix; 2 out, 11 of a rationale."""
    equal = dry_run(capsys, "--gin.StudyConfig.equal='compute'", "--gin.StudyConfig.bindings=[]")
    plain = dry_run(capsys, "--gin.StudyConfig.bindings=[]")
    assert steps(equal)["step_by_step"] == steps(plain)["step_by_step"] == 1000
    model = demo.settings("finetune").model
    plain_label, label, rationale = (
        costs.flops(model, costs.Shape(32, *lengths, 1, ""))
        for lengths in ((6, 2), (7, 2), (7, 11))
    )
    assert steps(equal)["standard"] == round(1000 * (label + rationale) / plain_label)
    assert steps(plain)["standard"] == 1000


CHOICES = "--gin.StudyConfig.choices={'LEARNING_RATE': (1e-9, 3e-3)}"


def test_tries_come_before_the_grid(here, capsys):
    lines = dry_run(capsys, CHOICES)
    assert "4 runs before these, to choose on validation" in lines
    tries = [line for line in lines if "/choices/try" in line]
    assert [("adamw at 1e-09" in line, "adamw at 0.003" in line) for line in tries] == [
        *[(True, False)] * 2,
        *[(False, True)] * 2,
    ]
    assert all("seed0" in line for line in tries)


def test_the_best_on_validation_is_chosen_for_every_arm(tmp_path):
    def tried(arm: str, rate: str, correct: int, test: int) -> choices.Try:
        model_dir = tmp_path / f"{arm}{rate}"
        model_dir.mkdir()
        results = [{"split": "test", "correct": test, "n": 10},
                   {"split": "validation", "correct": correct, "n": 10}]  # fmt: skip
        whole = {"mixture": "m", "step": 1, "results": results}
        (model_dir / "results.json").write_text(json.dumps(whole))
        run = Run(arm, config_of(model_dir))
        return choices.Try(run, run.group, (f"LR = {rate}",))

    found = [
        tried("a", "1", 5, 9),
        tried("a", "2", 7, 1),
        tried("b", "1", 6, 1),
        tried("b", "2", 6, 9),
    ]
    assert choices.chosen(found) == {
        ("a", None, None, None): ("LR = 2",),
        ("b", None, None, None): ("LR = 1",),
    }
    (tmp_path / "a1" / "results.json").unlink()
    assert choices.chosen(found) == {}, "one is not finished"


@pytest.mark.slow
def test_a_study_chooses_on_validation_and_says_so(here, capsys):
    """An arm that cannot learn at the first rate is trained at the second."""
    few = ["--gin.StudyConfig.arms={'standard': 'experiments/demo_finetune.gin'}"]
    few += ["--gin.StudyConfig.arm_bindings={}", "--gin.StudyConfig.seeds=(0,)"]
    few += ["--gin.StudyConfig.bindings=['TRAIN_STEPS = 60', 'EVAL_PERIOD = 60']"]
    assert main([*GIVEN, *few, CHOICES]) == 0
    text = capsys.readouterr().out
    said = re.search(
        r"standard: LEARNING_RATE = ([\d.e-]+) \(accuracies of all tries (\S+), (\S+)\)", text
    )
    best = max(map(float, said.groups()[1:]))
    assert (
        "Chosen on validation, with all the data and seed 0, the same 2 tries for every arm" in text
    )
    run = run_dir.load(here / "made" / "runs" / "standard-5pct-seed0")
    assert run.optimizer.learning_rate == float(said[1])
    tried = here / "made" / "choices" / f"try{(1e-9, 3e-3).index(float(said[1]))}" / "runs"
    results = json.loads((tried / "standard-5pct-seed0" / "results.json").read_text())["results"]
    (validation,) = [r for r in results if r["split"] == "validation"]
    assert round(validation["accuracy"], 3) == best
    assert main([*GIVEN, *few, CHOICES]) == 0, "all is done"


@pytest.mark.parametrize(
    "name",
    [
        "demo",
        "cqa",
        "paper_fractions",
        pytest.param("paper_unlabelled", marks=pytest.mark.slow),
        pytest.param("paper_sizes", marks=pytest.mark.slow),
        pytest.param("paper_tasks", marks=pytest.mark.slow),
        "paper_svamp_asdiv",
        "released_mini",
    ],
)
def test_the_packaged_studies_resolve(tmp_path, capsys, name):
    given = [f"--gin_file=studies/{name}.gin", f"--gin.STUDY_DIR='{tmp_path}'"]
    # Every cell reads its files again; a seed is one number in them.
    assert main(["study", *given, "--gin.StudyConfig.seeds=(0,)", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "runs in" in printed and "hours at 100 TFLOP/s" in printed


def test_a_grid_over_sizes_and_alphas(here, capsys):
    """An arm of one task has no alpha: it is trained once for each size."""
    (here / "wide.gin").write_text("T5Config.mlp_dim = 512\n")
    axes = [
        "--gin.StudyConfig.sizes={'narrow': [], 'wide': 'wide.gin'}",
        "--gin.StudyConfig.alphas=(0.25, 0.75)",
        "--gin.StudyConfig.arm_bindings={}",
        "--gin.StudyConfig.seeds=(0,)",
    ]
    assert main([*GIVEN, *axes, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("6 runs in made")
    names = [line.split()[0].rpartition("/")[2] for line in printed.splitlines()[1:7]]
    assert sorted(names) == [
        "standard-narrow-5pct-seed0",
        "standard-wide-5pct-seed0",
        "step_by_step-narrow-alpha0.25-5pct-seed0",
        "step_by_step-narrow-alpha0.75-5pct-seed0",
        "step_by_step-wide-alpha0.25-5pct-seed0",
        "step_by_step-wide-alpha0.75-5pct-seed0",
    ]


def test_a_dataset_takes_its_place_in_the_files(here, capsys):
    arms = "--gin.StudyConfig.arms={'standard': 'experiments/{dataset}_finetune.gin'}"
    datasets = "--gin.StudyConfig.datasets=('cqa', 'svamp')"
    rest = ["--gin.StudyConfig.arm_bindings={}", "--gin.StudyConfig.bindings=['TRAIN_STEPS = 5']"]
    assert main([*GIVEN, arms, datasets, *rest, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "cqa-standard-5pct-seed1  cqa_finetune: 5 updates" in printed
    assert "svamp-standard-5pct-seed0  svamp_finetune: 5 updates" in printed
