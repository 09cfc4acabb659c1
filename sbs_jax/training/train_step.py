"""One train step: model, objective and optimizer, jitted and sharded.

The loss of a step is the same number however its batch is packed, sharded or cut into
micro-batches: each task's normaliser is its token count in the whole batch (see `objective`).
"""

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, UInt

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models import parameters
from sbs_jax.training import losses, stochastic_rounding
from sbs_jax.training.gradients import GLOBAL, Batch, Gradients, make_gradients
from sbs_jax.training.optimizers import Schedule

Metrics = dict[str, Float[Array, ""]]

# An update is finite where these are; parameters may overflow where loss and gradient do not.
FINITE_METRICS = ("loss", "grad_norm", "param_max")

_BACKOFF = 0.5  # of the learning rate, at an update that is not finite
_ROUNDING = 2**31 - 1  # the stream of random bits beside those of the micro-batches' dropout


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds. The leaves are arrays, or their shapes or shardings.

    Attributes:
        step: updates done so far, an int32 scalar.
        params: nested dict with T5X's names; matrices in `T5Config.param_dtype`, the rest float32.
        opt_state: the optimizer's slots, float32.
        rate_scale: what updates that were not finite have left of the learning rate, float32.
    """

    step: Any
    params: dict
    opt_state: optax.OptState
    rate_scale: Any


def init_state(
    config: T5Config,
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
    seed: int,
    params: dict | None = None,
) -> TrainState:
    """A fresh sharded state, from random parameters or from `params` (host or device arrays)."""
    shapes = abstract_state(config, optimizer, partitioner)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    if params is None:
        params = parameters.create(config, _argument(seed), shardings.params)
    else:
        cast = jax.tree.map(lambda leaf, shape: leaf.astype(shape.dtype), params, shapes.params)
        params = jax.device_put(cast, shardings.params)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    rate_scale = jax.device_put(jnp.ones((), jnp.float32), shardings.rate_scale)
    return TrainState(step, params, opt_state, rate_scale)


def abstract_state(
    config: T5Config, optimizer: optax.GradientTransformation, partitioner: Partitioner
) -> TrainState:
    """Shapes, dtypes and shardings of a state, without allocating it."""
    params = parameters.shapes(config)
    opt_state = jax.eval_shape(optimizer.init, params)
    step, rate_scale = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.int32, jnp.float32))
    state = TrainState(step, params, opt_state, rate_scale)
    shardings = TrainState(
        partitioner.replicated,
        partitioner.param_shardings(params),
        partitioner.optimizer_shardings(optimizer, params, opt_state),
        partitioner.replicated,
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )


def make_train_step(
    config: T5Config,
    optimizer: optax.GradientTransformation,
    learning_rate: Schedule,
    task_weights: Float[Array, " tasks"],
    partitioner: Partitioner,
    *,
    seed: int = 0,
    segments: int = 1,
    num_microbatches: int = 1,
    normalization: str = GLOBAL,
    on_nonfinite: str = "stop",
) -> functools.partial[tuple[TrainState, Metrics]]:
    """The jitted update, its seed bound; it donates the state it is given.

    Args:
        task_weights: see `objective.coefficients`.
        seed: dropout masks and rounding are functions of (seed, step, micro-batch) alone.
        segments: sequences of a packed row that get a dropout mask of their own.
        num_microbatches: rows [B] are worked in this many consecutive groups, one after another.
        normalization: `GLOBAL` (exact) or `PER_MICROBATCH` (transformers' accumulation).
        on_nonfinite: where loss, gradient or new parameters are not finite, "skip" counts the
            step, but leaves parameters and optimizer slots as they were, Adam's count of updates
            too; "reduce" also halves the learning rate from there on; "stop" leaves it to the
            caller.

    Returns:
        (state, batch) -> (new state, metrics): loss, label/loss, rationale/loss, token counts and
        accuracies per task, grad_norm before clipping, learning_rate of this update, param_max,
        the largest parameter after it (of a skipped update: what it would have been).
    """
    gradients = make_gradients(
        config,
        task_weights,
        segments=segments,
        num_microbatches=num_microbatches,
        normalization=normalization,
    )

    def train_step(
        seed: UInt[Array, ""], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        found = gradients(state.params, batch, rng)
        updates, opt_state = optimizer.update(found.grads, state.opt_state, state.params)
        rounding_rng = jax.random.fold_in(rng, _ROUNDING)
        params = stochastic_rounding.apply_updates(
            state.params, updates, state.rate_scale, rounding_rng
        )
        new = TrainState(state.step + 1, params, opt_state, state.rate_scale)
        metrics = _metrics(found, learning_rate(state.step) * state.rate_scale, params)
        if on_nonfinite != "stop":
            finite = functools.reduce(
                jnp.logical_and, [jnp.isfinite(metrics[name]) for name in FINITE_METRICS]
            )
            new = _guarded(finite, new, state, _BACKOFF if on_nonfinite == "reduce" else 1.0)
        return new, metrics

    def placed(
        seed: UInt[Array, ""], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        with partitioner.activations():
            return train_step(seed, state, batch)

    shardings = jax.tree.map(
        lambda leaf: leaf.sharding, abstract_state(config, optimizer, partitioner)
    )
    jitted = jax.jit(
        placed,
        in_shardings=(partitioner.replicated, shardings, partitioner.batch_sharding),
        out_shardings=(shardings, partitioner.replicated),
        donate_argnums=1,
    )
    return functools.partial(jitted, _argument(seed))


def _metrics(found: Gradients, learning_rate: Array, params: dict) -> Metrics:
    leaves = jax.tree.leaves(params)
    metrics = {
        "loss": found.loss,
        "learning_rate": learning_rate,
        "grad_norm": optax.tree.norm(found.grads),
        "param_max": functools.reduce(
            jnp.maximum, [jnp.max(jnp.abs(leaf)).astype(jnp.float32) for leaf in leaves]
        ),
    }
    for index, task in enumerate(losses.TASKS):
        metrics[f"{task}/loss_sum"] = found.sums[index]
        metrics[f"{task}/correct_tokens"] = found.hits[index]
        metrics[f"{task}/tokens"] = found.counts[index]
    return metrics


def _guarded(finite: Array, new: TrainState, old: TrainState, backoff: float) -> TrainState:
    """The new state, or where its update was not finite the old one at a reduced rate."""
    kept = old.replace(
        step=new.step,
        opt_state=_schedules_of(new.opt_state, old.opt_state),
        rate_scale=old.rate_scale * backoff,
    )
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, kept)


def _schedules_of(new: optax.OptState, old: optax.OptState) -> optax.OptState:
    """The old slots, but schedules go on: they follow the steps of the run."""

    def is_schedule(node: Any) -> bool:
        # optax's states of a schedule are those that hold a count and nothing else.
        return getattr(node, "_fields", None) == ("count",)

    return jax.tree.map(lambda a, b: a if is_schedule(a) else b, new, old, is_leaf=is_schedule)


def _argument(seed: int) -> np.ndarray:
    """A seed as data: closed over, it would make another program to compile of every seed."""
    return np.asarray(seed % 2**32, np.uint32)
