"""Learning-rate schedules under the names T5X uses; with numpy they need no jax."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

from sbs_jax.configs import OptimizerConfig
from sbs_jax.configs.training import LEARNING_RATE_FACTORS

Schedule = Callable[[Any], Any]


def _jax_numpy() -> ModuleType:
    from jax import numpy  # only where a step is compiled

    return numpy


def create_learning_rate_scheduler(
    factors: str = "linear_decay",
    base_learning_rate: float = 5e-5,
    warmup_steps: int = 0,
    total_steps: int | None = None,
    decay_factor: float | None = None,
    end_factor: float = 0.0,
    steps_per_decay: int = 20_000,
    steps_per_cycle: int = 100_000,
    xp: ModuleType | None = None,
) -> Schedule:
    """A schedule from T5X's factor string, e.g. ``"constant * linear_warmup * rsqrt_decay"``.

    Names and meaning follow ``t5x.utils.create_learning_rate_scheduler``, with two differences:
    `warmup_steps` may be 0, and ``linear_decay`` without a `decay_factor` (T5X's slope per step)
    runs to `end_factor` at `total_steps`. The default is the paper's: linear to 0, no warm-up.

    Args:
        xp: numpy, or jax.numpy (the default), which the schedule computes with in float32.

    Raises:
        ValueError: for an unknown factor, or linear_decay with neither slope nor total_steps.
    """
    numbers: Any = xp or _jax_numpy()
    names = [name.strip() for name in factors.split("*")]
    for name in names:
        if name not in LEARNING_RATE_FACTORS:
            known = ", ".join(LEARNING_RATE_FACTORS)
            raise ValueError(f"unknown learning-rate factor {name!r}; known: {known}")
    slope = 0.5 if decay_factor is None else decay_factor
    if "linear_decay" in names and decay_factor is None:
        if total_steps is None:
            raise ValueError("linear_decay needs total_steps or decay_factor")
        slope = (1.0 - end_factor) / max(total_steps - warmup_steps, 1)

    def factor(name: str, step: Any) -> Any:
        warm = numbers.minimum(1.0, step / warmup_steps) if warmup_steps else numbers.float32(1.0)
        after = numbers.maximum(step, max(warmup_steps, 1))
        match name:
            case "constant":
                return numbers.float32(base_learning_rate)
            case "linear_warmup":
                return warm
            case "linear_decay":
                return base_learning_rate * numbers.minimum(
                    warm, 1.0 + slope * (warmup_steps - step)
                )
            case "rsqrt_decay":
                return 1.0 / numbers.sqrt(after)
            case "rsqrt_normalized_decay":
                return numbers.sqrt(max(warmup_steps, 1) / after)
            case "decay_every":
                return slope ** (step // steps_per_decay)
            case "cosine_decay":
                progress = numbers.maximum(0.0, (step - warmup_steps) / steps_per_cycle)
                return 0.5 * (1.0 + numbers.cos(numbers.pi * (progress % 1.0)))
        raise ValueError(f"unknown learning-rate factor {name!r}")

    def schedule(step: Any) -> Any:
        step = numbers.asarray(step, numbers.float32)
        rate = numbers.float32(1.0)
        for name in names:
            rate = rate * factor(name, step)
        return numbers.maximum(rate, 0.0)

    return schedule


def learning_rate_of(
    config: OptimizerConfig, train_steps: int, xp: ModuleType | None = None
) -> Schedule:
    """The schedule a run's configuration describes.

    A cosine's cycle is the run after its warm-up unless `steps_per_cycle` says otherwise; T5X's
    100,000 updates would leave the rate of a shorter run where it is.
    """
    return create_learning_rate_scheduler(
        config.factors,
        config.learning_rate,
        config.warmup_steps,
        total_steps=train_steps,
        end_factor=config.end_factor,
        steps_per_decay=config.steps_per_decay,
        steps_per_cycle=config.steps_per_cycle or max(train_steps - config.warmup_steps, 1),
        xp=xp,
    )
