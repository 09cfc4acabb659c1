"""The runner of grids where it refuses or where a run breaks; test_demo.py has the good days."""

import dataclasses
import functools
import json
import os
import pathlib

import pytest

from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.reporting.study_files import StudyTexts
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


def test_a_worker_that_dies_while_it_waits_is_replaced(tmp_path):
    broken = functools.partial(int, "no number")
    with workers.Workers(1, broken, workers.ONE_CPU_THREAD, tmp_path) as pool:
        (process,) = pool._processes.values()
        process.kill()
        process.join()
        (run,) = make_study(tmp_path, "demo_finetune").runs
        ((index, outcome),) = pool.train([(run.config, "")], lambda _: True)
    assert (index, outcome.reason[:28]) == (0, "ValueError: invalid literal ")


@pytest.mark.slow
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


@pytest.mark.parametrize("damage", [{"arm": ["standard"]}, {"seed": None}, {"alpha": [1]}])
def test_a_damaged_row_is_one_line(tmp_path, damage):
    write_rows(tmp_path, ROW | damage)
    (axis,) = damage
    with pytest.raises(UserError, match=rf"study\.jsonl:1: not a row of a study: field '{axis}'"):
        runner.run(make_study(tmp_path, "demo_finetune"))


def test_a_study_that_is_refused_leaves_what_the_other_tells(tmp_path):
    made = make_study(tmp_path, "demo_finetune")
    runner.tell(made, made.runs)
    other = dataclasses.replace(made, texts=StudyTexts(title="other"))
    with files.locked(tmp_path, "test"), pytest.raises(UserError, match="another process is work"):
        runner.run(other)
    assert json.loads((tmp_path / "study.json").read_text())["title"] == "a test"


def test_a_study_dir_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"STUDY_DIR .*file\S*: cannot be written \("):
            runner.run(make_study(folder, "demo_finetune"))
