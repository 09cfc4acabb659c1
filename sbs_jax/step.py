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
from jaxtyping import Array, Float, Int, UInt

from sbs_jax import objective
from sbs_jax.configs import T5Config
from sbs_jax.model import Transformer, init_params
from sbs_jax.optimizers import Schedule
from sbs_jax.partitioning import Partitioner

Batch = dict[str, Int[Array, "B _"]]
Metrics = dict[str, Float[Array, ""]]

# How the token counts that normalise a task's loss are taken.
GLOBAL = "global"  # over the whole batch: micro-batches change nothing
PER_MICROBATCH = "per_microbatch"  # the original's gradient accumulation: mean of means


class TrainState(flax.struct.PyTreeNode):
    """What a checkpoint holds. The leaves are arrays, or their shapes or shardings.

    Attributes:
        step: updates done so far, an int32 scalar.
        params: nested dict with T5X's names, float32.
        opt_state: the optimizer's slots.
    """

    step: Any
    params: dict
    opt_state: optax.OptState


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
        create = jax.jit(
            lambda seed: init_params(config, jax.random.key(seed)), out_shardings=shardings.params
        )
        params = create(_argument(seed))
    else:
        params = jax.device_put(params, shardings.params)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    return TrainState(step=step, params=params, opt_state=opt_state)


def abstract_state(
    config: T5Config, optimizer: optax.GradientTransformation, partitioner: Partitioner
) -> TrainState:
    """Shapes, dtypes and shardings of a state, without allocating it."""
    params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    opt_state = jax.eval_shape(optimizer.init, params)
    state = TrainState(jax.ShapeDtypeStruct((), jnp.int32), params, opt_state)
    shardings = TrainState(
        partitioner.replicated,
        partitioner.param_shardings(params),
        partitioner.optimizer_shardings(optimizer, params, opt_state),
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
    skip_nonfinite: bool = False,
) -> functools.partial[tuple[TrainState, Metrics]]:
    """The jitted update, its seed bound; it donates the state it is given.

    Args:
        task_weights: see `objective.coefficients`.
        seed: dropout masks are a function of (seed, step, micro-batch) alone.
        segments: sequences of a packed row that get a dropout mask of their own.
        num_microbatches: rows [B] are worked in this many consecutive groups, one after another.
        normalization: `GLOBAL` (exact) or `PER_MICROBATCH` (transformers' accumulation).
        skip_nonfinite: where loss or gradient norm is not finite, the step is counted, but
            parameters and optimizer slots (its own count of updates too) stay as they were.

    Returns:
        (state, batch) -> (new state, metrics): loss, label/loss, rationale/loss, token counts and
        accuracies per task, grad_norm before clipping, learning_rate of this update.
    """
    model = Transformer(config, segments)
    dropout = config.dropout_rate > 0.0

    def loss_fn(
        params: dict, microbatch: Batch, counts: Float[Array, " tasks"], rng: Array
    ) -> tuple[Float[Array, ""], tuple[Float[Array, " tasks"], Float[Array, " tasks"]]]:
        rngs = {"dropout": rng} if dropout else None
        logits = model.apply({"params": params}, microbatch, deterministic=not dropout, rngs=rngs)
        sums, hits = objective.task_sums(logits, microbatch)
        return objective.combine(sums, counts, task_weights), (sums, hits)

    def gradients(
        params: dict, batch: Batch, rng: Array
    ) -> tuple[dict, Float[Array, ""], Float[Array, " tasks"], Float[Array, " tasks"]]:
        counts = objective.task_counts(batch)
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        if num_microbatches == 1:
            (loss, (sums, hits)), grads = grad_fn(params, batch, counts, rng)
            return grads, loss, sums, hits

        def accumulate(total: tuple, item: tuple[Array, Batch]) -> tuple[tuple, None]:
            index, microbatch = item
            own = objective.task_counts(microbatch) * num_microbatches
            divisor = counts if normalization == GLOBAL else own
            key = jax.random.fold_in(rng, index)
            (loss, aux), grads = grad_fn(params, microbatch, divisor, key)
            return jax.tree.map(jnp.add, total, (grads, loss, *aux)), None

        grouped = {
            name: rows.reshape(num_microbatches, -1, rows.shape[1]) for name, rows in batch.items()
        }
        zeros = jnp.zeros(len(objective.TASKS))
        start = (jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), zeros, zeros)
        total, _ = jax.lax.scan(accumulate, start, (jnp.arange(num_microbatches), grouped))
        return total

    def train_step(
        seed: UInt[Array, ""], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        grads, loss, sums, hits = gradients(state.params, batch, rng)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        grad_norm = optax.tree.norm(grads)
        if skip_nonfinite:
            finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
            params, opt_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (params, opt_state),
                (state.params, state.opt_state),
            )
        metrics = {
            "loss": loss,
            "learning_rate": learning_rate(state.step),
            "grad_norm": grad_norm,
        }
        counts = objective.task_counts(batch)
        for index, task in enumerate(objective.TASKS):
            metrics[f"{task}/loss_sum"] = sums[index]
            metrics[f"{task}/correct_tokens"] = hits[index]
            metrics[f"{task}/tokens"] = counts[index]
        return TrainState(state.step + 1, params, opt_state), metrics

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


def _argument(seed: int) -> np.ndarray:
    """A seed as data: closed over, it would make another program to compile of every seed."""
    return np.asarray(seed % 2**32, np.uint32)
