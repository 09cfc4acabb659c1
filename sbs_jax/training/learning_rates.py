"""Prints the learning rates of a run, to spot a wrong schedule before it costs one."""

import numpy as np

from sbs_jax.configs import TrainConfig
from sbs_jax.training import schedules


def learning_rates(config: TrainConfig) -> str:
    """The learning rate at the first, the highest and the last update."""
    schedule = schedules.learning_rate_of(config.optimizer, config.train_steps, np)
    rates = schedule(np.arange(config.train_steps)) * np.ones(config.train_steps, np.float32)
    peak = int(rates.argmax())
    return (
        f"learning rate ({config.optimizer.factors}): {rates[0]:.3g} at update 1, highest "
        f"{rates[peak]:.3g} at update {peak + 1}, {rates[-1]:.3g} at update {len(rates)}"
    )
