"""Prints the learning rates of a run, to spot a wrong schedule before it costs one."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sbs_jax.configs import TrainConfig
from sbs_jax.configs.gin_loader import is_packaged
from sbs_jax.configs.gin_scanner import Scan
from sbs_jax.errors import UserError
from sbs_jax.runs import layout
from sbs_jax.training import schedules

_WARMED = {"linear_warmup", "linear_decay"}
_TRIAL = 5  # updates of a run that only tries something out


def learning_rates(config: TrainConfig) -> str:
    """The learning rate at the first, the highest and the last update."""
    schedule = schedules.learning_rate_of(config.optimizer, config.train_steps, np)
    rates = schedule(np.arange(config.train_steps)) * np.ones(config.train_steps, np.float32)
    peak = int(rates.argmax())
    return (
        f"learning rate ({config.optimizer.factors}): {rates[0]:.3g} at update 1, highest "
        f"{rates[peak]:.3g} at update {peak + 1}, {rates[-1]:.3g} at update {len(rates)}"
        f"{_remark(config)}"
    )


def _remark(config: TrainConfig) -> str:
    return "".join(f"; warning: {remark}" for remark in _remarks(config))


def _remarks(config: TrainConfig) -> Iterator[str]:
    """What is set and never changes the rate."""
    optimizer, names = config.optimizer, set(config.optimizer.factor_names)
    warm_up = f"WARMUP_STEPS = {optimizer.warmup_steps}"
    if optimizer.warmup_steps and names == {"constant"}:
        yield f"{warm_up} has no effect without the factor linear_warmup"
    elif _never_warm(config):
        yield f"{warm_up} is longer than the run"
    if optimizer.end_factor and "linear_decay" not in names:
        yield f"END_FACTOR = {optimizer.end_factor} has no effect without the factor linear_decay"
    if optimizer.steps_per_cycle and "cosine_decay" not in names:
        yield "OptimizerConfig.steps_per_cycle has no effect without the factor cosine_decay"
    if "decay_every" in names and optimizer.steps_per_decay >= config.train_steps:
        yield (
            f"decay_every first decays after {optimizer.steps_per_decay:,} updates "
            "(OptimizerConfig.steps_per_decay), more than the run has"
        )


def _never_warm(config: TrainConfig) -> bool:
    optimizer = config.optimizer
    warmed = not _WARMED.isdisjoint(optimizer.factor_names)
    return warmed and optimizer.warmup_steps > config.train_steps


def refuse_long_warm_up(config: TrainConfig, scan: Scan) -> None:
    """Refuses a run that ends within the warm-up that its user set.

    Allows, as `learning_rates` prints: a warm-up of a packaged gin file, of a run's own
    config.gin, and runs of at most 5 updates, which only try something out.

    Raises:
        UserError: naming the place.
    """
    if not _never_warm(config) or config.train_steps <= _TRIAL:
        return
    setters = [scan.macros.get("WARMUP_STEPS")]
    setters += [value for name, value in scan.bindings.items() if name.endswith(".warmup_steps")]
    for setter in setters:
        file = setter.place.file if setter else ""
        if setter and not is_packaged([file]) and Path(file).name != layout.CONFIG_GIN:
            raise UserError(
                f"{setter.place}: WARMUP_STEPS = {config.optimizer.warmup_steps} is longer than "
                f"TRAIN_STEPS = {config.train_steps}: the rate would never reach LEARNING_RATE; "
                "set it lower (0: no warm-up), or train longer"
            )
