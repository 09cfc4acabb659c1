"""The runner of grids where it refuses or where a run breaks; test_demo.py has the good days."""

import functools
import json
import os
import pathlib

import pytest

from sbs_jax import demo, study, workers
from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.run_files import StudyTexts
from sbs_jax.study import Run, Study

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
        model_dir=study.cell_dir(folder, "standard", 1.0, 0),
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


def test_a_refused_run_is_named_and_has_no_row(tmp_path):
    demo.annotate(tmp_path, 0)
    registered = functools.partial(demo.register, tmp_path, (0,))
    with pytest.raises(UserError, match=r"standard-100pct-seed0: demo_seed0_fintune: .*finetune"):
        study.run(make_study(tmp_path, "demo_seed0_fintune", registered))
    assert not (tmp_path / "study.jsonl").exists()


def test_a_bug_in_a_worker_shows_its_traceback(tmp_path):
    broken = functools.partial(int, "no number")
    with pytest.raises(RuntimeError, match=r"(?s)standard-100pct-seed0.*ValueError: invalid lit"):
        study.run(make_study(tmp_path, "demo_finetune", broken))


def test_a_worker_that_dies_is_noticed(tmp_path):
    with pytest.raises(UserError, match=r"seed0: its worker ended with status 9 .*worker-0\.log"):
        study.run(make_study(tmp_path, "demo_finetune", functools.partial(os._exit, 9)))


def test_settings_name_everything_but_the_folder(tmp_path):
    (run,) = make_study(tmp_path, "demo_finetune").runs
    (moved,) = make_study(tmp_path / "b", "demo_finetune").runs
    (other,) = make_study(tmp_path, "demo_distill").runs
    assert run.settings == moved.settings != other.settings
    assert run.key == ("standard", 1.0, 0)


@pytest.mark.parametrize("change", [{"settings": "older"}, {"arm": "pinto"}, {"seed": 7}])
def test_a_row_of_another_study_is_refused_before_anything_starts(tmp_path, change):
    made = make_study(tmp_path, "demo_finetune")
    row = {"arm": "standard", "fraction": 1.0, "seed": 0, "settings": made.runs[0].settings}
    (tmp_path / "study.jsonl").write_text(json.dumps(row | change) + "\n")
    with pytest.raises(UserError, match=r"study\.jsonl:1: a row of another study"):
        study.run(made)
    assert sorted(os.listdir(tmp_path)) == ["study.jsonl"]
    (tmp_path / "study.jsonl").write_text(json.dumps(row) + "\n")
    study.run(made)  # all is done: no worker starts
    assert not (tmp_path / "logs").exists()
