"""The runner of grids where it refuses or where a run breaks; test_demo.py has the good days."""

import dataclasses
import functools
import json
import os
import pathlib

import pytest

from sbs_jax.cli import main
from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.runs import run_dir
from sbs_jax.studies import demo, runner, workers
from sbs_jax.studies.cells import Run, cell_dir
from sbs_jax.studies.runner import Study
from sbs_jax.utils import files

MODEL = T5Config(
    vocab_size=256,
    emb_dim=8,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=4,
    mlp_dim=16,
)


def make_study(folder: pathlib.Path, mixture: str, prepare=demo.annotate) -> Study:
    config = TrainConfig(
        model_dir=cell_dir(folder, "standard", 1.0, 0),
        mixture_or_task_name=mixture,
        task_feature_lengths={"inputs": 32, "targets": 32},
        train_steps=2,
        model=MODEL,
        vocabulary="demo",
    )
    return Study(
        folder=folder,
        runs=[Run("standard", config)],
        texts=StudyTexts(title="a test"),
        prepare=prepare,
        workers=1,
        environment=workers.ONE_CPU_THREAD,
    )


def read_rows(folder: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "study.jsonl").read_text().splitlines()]


def test_a_refused_run_is_a_row_with_its_reason(tmp_path):
    demo.annotate(tmp_path, 0)
    registered = functools.partial(demo.register, tmp_path, (0,))
    failures = runner.run(make_study(tmp_path, "demo_seed0_fintune", registered))
    ((run, reason),) = failures
    assert run.name == "standard, fraction 1, seed 0"
    assert "demo_seed0_fintune" in reason and "finetune" in reason
    (row,) = read_rows(tmp_path)
    assert (row["arm"], row["fraction"], row["seed"], row["error"]) == ("standard", 1, 0, reason)
    with pytest.raises(
        UserError, match=r"^1 run failed, the same command tries again: standard, f"
    ):
        runner.refuse(failures)


def test_a_bug_in_a_worker_is_named_and_its_log_has_the_traceback(tmp_path):
    broken = functools.partial(int, "no number")
    ((_, reason),) = runner.run(make_study(tmp_path, "demo_finetune", broken))
    assert reason.startswith("ValueError: invalid literal") and "\n" not in reason
    log = (tmp_path / "logs" / "worker-0.log").read_text()
    assert log.count("Traceback") == 2, "tried once more, in case another process was in the way"


def test_a_worker_that_dies_is_noticed_and_replaced(tmp_path):
    ((_, reason),) = runner.run(
        make_study(tmp_path, "demo_finetune", functools.partial(os._exit, 9))
    )
    assert "its worker ended with status 9" in reason and "worker-0.log" in reason


def test_failed_runs_are_tried_again_and_the_others_are_done(tmp_path):
    """Three runs, the first and last refused; at the next start, mended, all are finished."""
    demo.annotate(tmp_path, 0)
    registered = functools.partial(demo.register, tmp_path, (0,))
    made = make_study(tmp_path, "demo_seed0_finetune", registered)
    (run,) = made.runs

    def seeded(seed: int, **changes: object) -> Run:
        config = dataclasses.replace(
            run.config,
            model_dir=cell_dir(tmp_path, "standard", 1.0, seed),
            random_seed=seed,
            eval_num_examples=4,
            max_decode_length=2,
            **changes,
        )
        return dataclasses.replace(run, config=config)

    runs = [seeded(0, vocabulary="gone.model"), seeded(1), seeded(2, vocabulary="gone.model")]
    failures = runner.run(dataclasses.replace(made, runs=runs))
    assert [failed.key[-1] for failed, _ in failures] == [0, 2]
    assert {row["seed"]: "error" in row for row in read_rows(tmp_path)} == {
        0: True,
        1: False,
        2: True,
    }
    finished = (tmp_path / "runs").stat()
    assert runner.run(dataclasses.replace(made, runs=[seeded(i) for i in range(3)])) == []
    assert not any("error" in row for row in read_rows(tmp_path))
    assert finished.st_ino == (tmp_path / "runs").stat().st_ino
    for row in read_rows(tmp_path):
        assert row["dataset"] == "demo_seed0"


def test_settings_name_everything_but_the_folder(tmp_path):
    (run,) = make_study(tmp_path, "demo_finetune").runs
    (moved,) = make_study(tmp_path / "b", "demo_finetune").runs
    (other,) = make_study(tmp_path, "demo_distill").runs
    assert run.settings == moved.settings != other.settings
    assert run.key == ("standard", None, None, None, 1.0, 0)


ROW = {"arm": "standard", "fraction": 1, "seed": 0}


def write_rows(folder: pathlib.Path, *rows: dict) -> None:
    (folder / "study.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def changed(made: Study, **changes: object) -> Study:
    (run,) = made.runs
    config = dataclasses.replace(run.config, **changes)
    return dataclasses.replace(made, runs=[dataclasses.replace(run, config=config)])


def test_settings_leave_out_what_a_run_may_change(tmp_path):
    made = make_study(tmp_path, "demo_finetune")
    (run,) = made.runs
    for free in ({"on_nonfinite": "skip"}, {"pack": False}, {"keep_best": 2}):
        assert changed(made, **free).runs[0].settings == run.settings
    for fixed in ({"alpha": 0.25}, {"max_decode_length": 2}, {"eval_num_examples": 2}):
        assert changed(made, **fixed).runs[0].settings != run.settings


def test_a_row_with_other_settings_is_refused_before_anything_starts(tmp_path):
    made = make_study(tmp_path, "demo_finetune")
    write_rows(tmp_path, ROW | {"settings": "older"})
    with pytest.raises(UserError, match=r"study\.jsonl:1: .* its folder does not tell which"):
        runner.run(made)
    assert sorted(os.listdir(tmp_path)) == ["study.jsonl"]
    fields = dataclasses.asdict(made.runs[0].config) | {"fingerprints": {}}
    model_dir = pathlib.Path(made.runs[0].config.model_dir)
    model_dir.mkdir(parents=True)
    (model_dir / "run.json").write_text(json.dumps(fields))
    with pytest.raises(
        UserError, match=r"standard, fraction 1, seed 0 .* alpha was 0\.5, now 0\.25;"
    ):
        runner.run(changed(made, alpha=0.25))
    runner.run(made)  # run.json tells that nothing differs: a row of an earlier version
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("before", "now", "refused"),
    [
        ({"train": "a", "test": "b"}, {"train": "a", "test": "b"}, None),
        ({"train": "a", "test": "b"}, {"train": "x", "test": "b"}, "train"),
        ({"train": "a", "test": "b"}, {"train": "a", "test": "x"}, "test"),
        ({"train": "a"}, {"train": "a", "test": "b"}, None),
        ({}, {"train": "a"}, None),
        ({"train": "a"}, {}, None),
    ],
)
def test_a_finished_run_on_other_data_is_refused(tmp_path, before, now, refused):
    made = make_study(tmp_path, "demo_finetune")
    (run,) = made.runs
    made = dataclasses.replace(made, runs=[dataclasses.replace(run, data=now)])
    write_rows(tmp_path, ROW | {"settings": run.settings, "data": before})
    if refused is None:
        assert runner.run(made) == []
        return
    with pytest.raises(
        UserError, match=rf"study\.jsonl:1: .* on other data: the {refused} records"
    ):
        runner.run(made)


def test_the_training_data_of_an_earlier_versions_row_are_in_its_run(tmp_path):
    made = make_study(tmp_path, "demo_finetune")
    (run,) = made.runs
    model_dir = pathlib.Path(run.config.model_dir)
    model_dir.mkdir(parents=True)
    fields = dataclasses.asdict(run.config) | {"fingerprints": {"data_fingerprint": "a"}}
    (model_dir / "run.json").write_text(json.dumps(fields))
    write_rows(tmp_path, ROW | {"settings": run.settings})
    made = dataclasses.replace(made, runs=[dataclasses.replace(run, data={"train": "b"})])
    with pytest.raises(UserError, match="the train records have changed since"):
        runner.run(made)


def test_rows_that_are_not_asked_for_are_kept(tmp_path, capsys):
    made = make_study(tmp_path, "demo_finetune")
    rows = [ROW | {"settings": made.runs[0].settings}, ROW | {"seed": 7}, ROW | {"arm": "pinto"}]
    write_rows(tmp_path, *rows)
    runner.run(made)  # all is done: no worker starts
    assert not (tmp_path / "logs").exists()
    assert "1 of 1 runs are finished already" in capsys.readouterr().err
    assert len((tmp_path / "study.jsonl").read_text().splitlines()) == 3


def test_a_damaged_row_is_one_line(tmp_path):
    write_rows(tmp_path, ROW | {"arm": ["standard"]})
    with pytest.raises(UserError, match=r"study\.jsonl:1: not a row of a study"):
        runner.run(make_study(tmp_path, "demo_finetune"))


def test_a_study_dir_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"STUDY_DIR .*file\S*: cannot be written \("):
            runner.run(make_study(folder, "demo_finetune"))


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
