"""The bisection for the least data, with runs that are rows and predictions at once."""

import pathlib

import pytest
from helpers.studies import add_row, prediction

from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.studies import runner, search
from sbs_jax.studies.cells import Run, cell_dir
from sbs_jax.studies.runner import Study

MODEL = T5Config(
    vocab_size=256,
    emb_dim=8,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=4,
    mlp_dim=16,
)
FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)


def make_study(folder: pathlib.Path) -> Study:
    runs = [
        Run(
            "standard",
            TrainConfig(
                model_dir=cell_dir(folder, "standard", fraction, seed),
                mixture_or_task_name="mine_finetune",
                task_feature_lengths={"inputs": 8, "targets": 8},
                train_steps=1,
                model=MODEL,
                vocabulary="demo",
                data_fraction=fraction,
                random_seed=seed,
            ),
        )
        for seed in range(3)
        for fraction in FRACTIONS
    ]
    return Study(folder, runs, StudyTexts(), print, 1, {})


@pytest.fixture
def trained(tmp_path, monkeypatch) -> list[float]:
    """The fractions in the order in which they were trained; the student wins from `WINS` on."""
    order: list[float] = []

    def train(study: Study) -> list:
        for run in study.runs:
            fraction, seed = run.config.data_fraction, run.config.random_seed
            order.append(fraction)
            good = 90 if fraction >= wins_from[0] else 50
            rows = [
                prediction(i, (i * 7 + seed) % 100 < good, (i * 13) % 100 < 60) for i in range(100)
            ]
            add_row(study.folder, "standard", fraction, seed, rows)
        return []

    monkeypatch.setattr(runner, "run", train)
    return order


wins_from = [0.0]


@pytest.mark.parametrize("least", [*FRACTIONS, 2.0])
def test_the_least_fraction_is_found_in_few_looks(tmp_path, trained, least):
    wins_from[0] = least
    failures, (path,) = search.least_data(make_study(tmp_path), 100)
    assert failures == []
    end = "none of these fractions" if least > 1 else f"{100 * least:g}% of the data"
    assert f"Least data shown to beat the teacher: {end}" in path
    looked = list(dict.fromkeys(trained))
    assert looked[0] == 1.0 and len(looked) <= search.looks(len(FRACTIONS)) == 4
    assert len(trained) == 3 * len(looked)


def test_a_budget_ends_the_search_and_is_told(tmp_path, trained):
    wins_from[0] = 0.125
    _, (path,) = search.least_data(make_study(tmp_path), 7)
    assert len(trained) == 6 and "would exceed search_runs" in path


def test_each_look_is_corrected_for(tmp_path, trained):
    wins_from[0] = 0.5
    _, (path,) = search.least_data(make_study(tmp_path), 100)
    assert "each look at level 0.0125" in path
