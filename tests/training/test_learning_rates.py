"""The printed learning rates are those of the schedule, at the first, highest and last update."""

import re

import pytest
from helpers.runs import config_of

from sbs_jax.configs import OptimizerConfig, gin_loader
from sbs_jax.errors import UserError
from sbs_jax.training import schedules
from sbs_jax.training.learning_rates import learning_rates, refuse_long_warm_up


@pytest.mark.parametrize(
    ("factors", "steps", "warmup", "peak"),
    [
        ("linear_decay", 10, 0, 1),
        ("linear_decay", 100, 10, 11),
        ("constant", 7, 0, 1),
        ("constant * linear_warmup", 20, 5, 6),
        ("constant * linear_warmup * rsqrt_decay", 50, 10, 11),
        ("constant", 1, 0, 1),
    ],
)
def test_first_highest_and_last(tmp_path, factors, steps, warmup, peak):
    optimizer = OptimizerConfig(learning_rate=1e-2, factors=factors, warmup_steps=warmup)
    text = learning_rates(config_of(tmp_path, train_steps=steps, optimizer=optimizer))
    schedule = schedules.learning_rate_of(optimizer, steps)
    shown = re.findall(r"([\d.e-]+) at update (\d+)", text)
    assert [int(update) for _, update in shown] == [1, peak, steps]
    for rate, update in shown:
        assert float(rate) == pytest.approx(float(schedule(int(update) - 1)), rel=5e-3)
    assert factors in text


@pytest.mark.parametrize(
    ("factors", "steps", "warmup", "remark"),
    [
        ("linear_decay", 10, 1000, "WARMUP_STEPS = 1000 is longer than the run"),
        ("linear_decay", 2, 5, "WARMUP_STEPS = 5 is longer than the run"),
        ("constant * linear_warmup", 10, 11, "WARMUP_STEPS = 11 is longer than the run"),
        ("constant", 10, 3, "WARMUP_STEPS = 3 has no effect without the factor linear_warmup"),
        ("constant * rsqrt_decay", 10, 30, ""),  # constant for so long, in T5X too
        ("linear_decay", 10, 10, ""),
        ("constant", 10, 0, ""),
    ],
)
def test_a_warm_up_that_never_ends_is_told(tmp_path, factors, steps, warmup, remark):
    optimizer = OptimizerConfig(learning_rate=1e-2, factors=factors, warmup_steps=warmup)
    text = learning_rates(config_of(tmp_path, train_steps=steps, optimizer=optimizer))
    assert ("warning" in text) == bool(remark) and remark in text


@pytest.mark.parametrize(
    ("fields", "remark"),
    [
        ({"factors": "constant", "end_factor": 0.1}, "END_FACTOR = 0.1 has no effect"),
        ({"end_factor": 0.1}, None),
        ({"factors": "constant", "steps_per_cycle": 5}, "steps_per_cycle has no effect"),
        ({"factors": "constant * cosine_decay", "steps_per_cycle": 5}, None),
        ({"factors": "constant * decay_every"}, "first decays after 20,000 updates"),
        ({"factors": "constant * decay_every", "steps_per_decay": 4}, None),
    ],
)
def test_settings_of_other_factors_are_told(tmp_path, fields, remark):
    config = config_of(tmp_path, train_steps=10, optimizer=OptimizerConfig(**fields))
    text = learning_rates(config)
    assert ("warning" in text) == (remark is not None) and (remark or "") in text


@pytest.mark.parametrize("end", [-0.1, 1.1, 2])
def test_a_rate_that_would_end_above_its_start_is_refused(end):
    with pytest.raises(UserError, match=r"END_FACTOR = .*: must be from 0 to 1"):
        OptimizerConfig(end_factor=end)


@pytest.mark.parametrize(
    ("file", "lines", "flags", "place"),
    [
        ("mine.gin", "TRAIN_STEPS = 10\nWARMUP_STEPS = 1000\n", [], "mine.gin:3: "),
        ("mine.gin", "TRAIN_STEPS = 40\n", ["WARMUP_STEPS = 41"], "--gin.WARMUP_STEPS: "),
        ("mine.gin", "WARMUP_STEPS = 60\n", ["TRAIN_STEPS = 40"], "mine.gin:2: "),
        ("mine.gin", "OptimizerConfig.warmup_steps = 99\nTRAIN_STEPS = 40\n", [], "mine.gin:2: "),
        (
            "mine.gin",
            "utils.create_learning_rate_scheduler.warmup_steps = 99\nTRAIN_STEPS = 40\n",
            [],
            "mine.gin:2: ",
        ),
        ("mine.gin", "TRAIN_STEPS = 5\nWARMUP_STEPS = 6\n", [], None),  # tries something out
        ("mine.gin", "TRAIN_STEPS = 20\n", [], None),  # the demonstration's own 50
        ("mine.gin", "TRAIN_STEPS = 20\nWARMUP_STEPS = 20\n", [], None),
        ("config.gin", "TRAIN_STEPS = 20\nWARMUP_STEPS = 50\n", [], None),
        (
            "mine.gin",
            "TRAIN_STEPS = 20\nWARMUP_STEPS = 50\nLEARNING_RATE_FACTORS = 'constant'\n",
            [],
            None,
        ),
    ],
)
def test_a_warm_up_longer_than_the_run_is_refused_where_its_user_set_it(
    tmp_path, monkeypatch, file, lines, flags, place
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_text(f"include 'experiments/demo_finetune.gin'\n{lines}")
    found = gin_loader.load([file], ["MODEL_DIR = 'x'", *flags])
    config = gin_loader.build("configs.TrainConfig", found)
    if place is None:
        refuse_long_warm_up(config, found)
        return
    with pytest.raises(UserError, match=f"^{re.escape(place)}WARMUP_STEPS = .* is longer than"):
        refuse_long_warm_up(config, found)
