"""Optimizer presets under the names T5X uses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from sbs_jax.configs import OptimizerConfig
from sbs_jax.training.schedules import Schedule
from sbs_jax.training.stochastic_rounding import in_float32, widen


def scale_by_adam_hf(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam as transformers' ``adamw_hf`` (the original's optimizer): eps is not bias-corrected.

    update = sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps). `optax.scale_by_adam` corrects v
    before adding eps and has no such mode; after 20 steps weights differ by 1% of their movement.
    """
    adam = optax.scale_by_adam(b1, b2, eps)

    def update(grads: optax.Updates, state: optax.ScaleByAdamState, params=None):
        del params
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(grads, state.nu, b2, 2)
        count = optax.safe_increment(state.count)
        scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(adam.init, update)


class Optimizer(optax.GradientTransformation):
    """An optax optimizer that clips by the global gradient norm first.

    Its state is that of ``optax.chain(clip_by_global_norm, *steps)``, without the first where
    `clip_norm` is None or 0.

    Attributes:
        by_norm: (gradients, state, parameters, norm of the gradients) -> (updates, state): as
            `update`, but the norm, which the caller needs as well, is not computed again.
        elementwise: every number is updated by its own gradient and slots and by scalars alone,
            so that parameters may be cut and joined at will.
    """

    by_norm: Callable
    elementwise: bool

    def __new__(
        cls,
        steps: list[optax.GradientTransformation],
        clip_norm: float | None,
        elementwise: bool,
    ) -> "Optimizer":
        clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
        plain = in_float32(optax.chain(*clip, *steps))
        after_clip = in_float32(optax.chain(*steps))

        def by_norm(
            grads: optax.Updates, state: optax.OptState, params: optax.Params, norm: Array
        ) -> tuple[optax.Updates, optax.OptState]:
            if clip_norm:
                # One factor and products with it: a quotient per gradient would be a pass more.
                factor = jnp.where(norm < clip_norm, 1.0, clip_norm / norm)
                grads = jax.tree.map(lambda g: g * factor, widen(grads))
            updates, rest = after_clip.update(grads, state[len(clip) :], params)
            return updates, (*state[: len(clip)], *rest)

        self = super().__new__(cls, plain.init, plain.update)
        self.by_norm, self.elementwise = by_norm, elementwise
        return self


def kept_slots(new: optax.OptState, old: optax.OptState) -> optax.OptState:
    """The old slots, but schedules advance: they follow the steps of the run."""

    def is_schedule(node: Any) -> bool:
        # optax's states of a schedule are those that hold a count and nothing else.
        return getattr(node, "_fields", None) == ("count",)

    return jax.tree.map(lambda a, b: a if is_schedule(a) else b, new, old, is_leaf=is_schedule)


def create_optimizer(
    preset: str,
    learning_rate: Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
) -> Optimizer:
    """An optimizer by name, clipping the global gradient norm first; all of it in float32.

    Args:
        preset: ``adamw`` (optax, torch's formula), ``adamw_hf`` (the original's) or ``adafactor``
            (T5X's fine-tuning habit; ignores b1, b2 and eps).
        weight_decay: decoupled, scaled by the learning rate, on every parameter.

    Raises:
        ValueError: for an unknown preset.
    """
    decay = [optax.add_decayed_weights(weight_decay)] if weight_decay else []
    by_rate = optax.scale_by_learning_rate(learning_rate)
    match preset:
        case "adamw":
            steps = [optax.scale_by_adam(b1, b2, eps), *decay, by_rate]
        case "adamw_hf":
            steps = [scale_by_adam_hf(b1, b2, eps), *decay, by_rate]
        case "adafactor":
            rate = (lambda step: weight_decay * learning_rate(step)) if weight_decay else None
            steps = [optax.adafactor(learning_rate, weight_decay_rate=rate)]
        case _:
            raise ValueError(f"unknown optimizer {preset!r}; known: adamw, adamw_hf, adafactor")
    return Optimizer(steps, clip_norm, elementwise=preset != "adafactor")


def optimizer_of(config: OptimizerConfig, learning_rate: Schedule) -> Optimizer:
    """The optimizer a run's configuration describes."""
    return create_optimizer(
        config.preset,
        learning_rate,
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
    )
