"""The printed learning rates are those of the schedule, at the first, highest and last update."""

import re

import pytest
from helpers.runs import config_of

from sbs_jax.configs import OptimizerConfig
from sbs_jax.training import schedules
from sbs_jax.training.learning_rates import learning_rates


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
