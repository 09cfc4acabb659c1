"""One train step: model, loss and optimizer, jitted and sharded.

The loss of a step is the same number however its batch is packed, sharded or cut into
micro-batches: each task's normaliser is its token count in the whole batch (see `losses`).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models.t5 import Transformer
from sbs_jax.training import losses, stochastic_rounding
from sbs_jax.training.optimizers import Optimizer, Schedule, kept_slots
from sbs_jax.training.stochastic_rounding import widen
from sbs_jax.training.train_state import (
    TrainState,
    abstract_state,
    init_state,
    is_stacked,
    seed_argument,
    stack_layers,
    unstack_layers,
)

__all__ = ["GLOBAL", "PER_MICROBATCH", "TrainState", "abstract_state", "init_state"]

Batch = dict[str, Int[Array, "B _"]]
Metrics = dict[str, Float[Array, ""]]

# How the token counts that normalise a task's loss are taken.
GLOBAL = "global"  # over the whole batch: micro-batches change nothing
PER_MICROBATCH = "per_microbatch"  # the original's gradient accumulation: mean of means

# An update is finite where these are; parameters may overflow where loss and gradient do not.
FINITE_METRICS = ("loss", "grad_norm", "param_max")

_BACKOFF = 0.5  # of the learning rate, at an update that is not finite
_ROUNDING = 2**31 - 1  # separates its stream of random bits from the micro-batches' dropout


class Gradients(NamedTuple):
    """The gradients and per-task sums of a batch.

    Attributes:
        grads: of the loss, in the structure of the parameters and the dtype the step works in;
            float32 where micro-batches were summed.
        loss: the objective's value.
        sums: cross-entropy summed over each task's tokens.
        num_correct: target tokens of each task that had the highest logit.
        counts: target tokens of each task.
    """

    grads: dict
    loss: Float[Array, ""]
    sums: Float[Array, " tasks"]
    num_correct: Float[Array, " tasks"]
    counts: Float[Array, " tasks"]


def make_gradients(
    config: T5Config,
    task_weights: Float[Array, " tasks"],
    *,
    max_segments: int = 1,
    num_microbatches: int = 1,
    normalization: str = GLOBAL,
    fused_attention: bool = False,
) -> Callable[[dict, Batch, Array], Gradients]:
    """(parameters, batch, dropout's rng) -> `Gradients`; arguments as in `make_train_step`."""
    model = Transformer(config, max_segments, fused_attention)
    dropout = config.dropout_rate > 0.0

    def loss_fn(params: dict, batch: Batch, counts: Float[Array, " tasks"], rng: Array):
        rngs = {"dropout": rng} if dropout else None
        logits = model.apply({"params": params}, batch, deterministic=not dropout, rngs=rngs)
        sums, num_correct = losses.task_sums(cast(Array, logits), batch)
        return losses.weighted_loss(sums, counts, task_weights), (sums, num_correct)

    def of_rows(params: dict, batch: Batch, divisor: Float[Array, " tasks"], rng: Array) -> tuple:
        """(gradients, loss, sums, num_correct), all of which add up over micro-batches."""
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (sums, num_correct)), grads = grad_fn(params, batch, divisor, rng)
        return grads, loss, sums, num_correct

    def summed(params: dict, batch: Batch, counts: Float[Array, " tasks"], rng: Array) -> tuple:
        def accumulate(total: tuple, item: tuple[Array, Batch]) -> tuple[tuple, None]:
            index, rows = item
            own = losses.task_counts(rows) * num_microbatches
            divisor = counts if normalization == GLOBAL else own
            part = of_rows(params, rows, divisor, jax.random.fold_in(rng, index))
            return jax.tree.map(lambda a, b: a + b.astype(a.dtype), total, part), None

        grouped = {
            name: rows.reshape(num_microbatches, -1, rows.shape[1]) for name, rows in batch.items()
        }
        zeros = jnp.zeros(len(losses.TASKS))
        start = (jax.tree.map(jnp.zeros_like, widen(params)), jnp.zeros(()), zeros, zeros)
        return jax.lax.scan(accumulate, start, (jnp.arange(num_microbatches), grouped))[0]

    def gradients(params: dict, batch: Batch, rng: Array) -> Gradients:
        counts = losses.task_counts(batch)
        # Cast once an update; the gradients are those of the cast weights.
        weights = _in_compute_dtype(params, config)
        apart = is_stacked(params) and not config.scan_layers
        weights = unstack_layers(weights) if apart else weights
        work = of_rows if num_microbatches == 1 else summed
        grads, *rest = work(weights, batch, counts, rng)
        loss, sums, num_correct = rest
        return Gradients(stack_layers(grads) if apart else grads, loss, sums, num_correct, counts)

    return gradients


def _in_compute_dtype(params: dict, config: T5Config) -> dict:
    """Matrices that are multiplied in the computation's dtype, the embedding in float32.

    A product adds up in float32 whatever its dtype, the gradient of a look-up in the table's own:
    in bfloat16 a frequent token loses part (findings/jax_gradients_summed_in_bfloat16.sh).
    """

    def cast(path: tuple, leaf: Array) -> Array:
        return leaf.astype(config.dtype if path[-1].key == "kernel" else jnp.float32)

    return jax.tree_util.tree_map_with_path(cast, params)


def make_train_step(
    config: T5Config,
    optimizer: Optimizer,
    learning_rate: Schedule,
    task_weights: Float[Array, " tasks"],
    partitioner: Partitioner,
    *,
    seed: int = 0,
    max_segments: int = 1,
    num_microbatches: int = 1,
    normalization: str = GLOBAL,
    on_nonfinite: str = "stop",
    fused_attention: bool = False,
    stacked: bool = False,
) -> functools.partial[tuple[TrainState, Metrics]]:
    """The jitted update, its seed bound; it donates the state that it takes.

    Args:
        task_weights: see `losses.task_weights`.
        seed: dropout masks and rounding are functions of (seed, step, micro-batch) alone.
        max_segments: sequences of a packed row that get their own dropout masks.
        num_microbatches: rows [B] are worked in this many consecutive groups, one after another.
        normalization: `GLOBAL` (exact) or `PER_MICROBATCH` (transformers' accumulation).
        on_nonfinite: where loss, gradient or new parameters are not finite, "skip" counts the
            step, but leaves parameters and optimizer slots as they were, Adam's count of updates
            too; "reduce" also halves the learning rate from there on; "stop" leaves it to the
            caller.
        fused_attention: see `Transformer`.
        stacked: take and return the state in the stacked layout (`train_state`).

    Returns:
        (state, batch) -> (new state, metrics): loss, label/loss, rationale/loss, token counts and
        accuracies per task, grad_norm before clipping, learning_rate of this update, param_max,
        the largest parameter after it, NaN if one is not finite (of a skipped update: what it
        would have been).
    """
    gradients = make_gradients(
        config,
        task_weights,
        max_segments=max_segments,
        num_microbatches=num_microbatches,
        normalization=normalization,
        fused_attention=fused_attention,
    )
    backoff = _BACKOFF if on_nonfinite == "reduce" else 1.0

    def train_step(
        seed: UInt[Array, ""], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        rng = jax.random.fold_in(jax.random.key(seed), state.step)
        totals = gradients(state.params, batch, rng)
        norm = optax.tree.norm(widen(totals.grads))
        move = functools.partial(_moved, optimizer, totals.grads, norm, rng)
        params, slots = move(state)
        largest = _largest(params)
        metrics = _metrics(totals, norm, learning_rate(state.step) * state.rate_scale, largest)
        rate_scale = state.rate_scale
        if on_nonfinite != "stop":
            finite = jnp.isfinite(jnp.stack([totals.loss, norm, largest])).all()
            params, slots, rate_scale = _guarded(
                move, state, finite, backoff, in_place=partitioner.platform == "cpu"
            )
        return TrainState(state.step + 1, params, slots, rate_scale), metrics

    def placed(
        seed: UInt[Array, ""], state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        with partitioner.activations():
            return train_step(seed, state, batch)

    shardings = jax.tree.map(
        lambda leaf: leaf.sharding, abstract_state(config, optimizer, partitioner, stacked)
    )
    jitted = jax.jit(
        placed,
        in_shardings=(partitioner.replicated, shardings, partitioner.batch_sharding),
        out_shardings=(shardings, partitioner.replicated),
        donate_argnums=1,
    )
    return functools.partial(jitted, seed_argument(seed))


def _moved(
    optimizer: Optimizer, grads: dict, norm: Float[Array, ""], rng: Array, state: TrainState
) -> tuple[dict, optax.OptState]:
    """Parameters and slots after an update."""
    updates, slots = optimizer.by_norm(grads, state.opt_state, state.params, norm)
    rounding_rng = jax.random.fold_in(rng, _ROUNDING)
    params = stochastic_rounding.apply_updates(
        state.params, updates, state.rate_scale, rounding_rng
    )
    return params, slots


def _guarded(
    move: Callable[[TrainState], tuple[dict, optax.OptState]],
    state: TrainState,
    finite: Bool[Array, ""],
    backoff: float,
    in_place: bool,
) -> tuple[dict, optax.OptState, Float[Array, ""]]:
    """(Parameters, slots, rate_scale): of the moved state if it is finite, else of this one.

    The move is computed again after `finite` is known: kept until then, the new state would need
    memory next to the old one.

    Args:
        in_place: by a condition, whose branches write over the state; an accelerator would make
            the host wait for it. Without, XLA's CPU compiler copies the state.
    """

    def kept(state: TrainState) -> tuple[dict, optax.OptState]:
        return state.params, kept_slots(move(state)[1], state.opt_state)

    if in_place:
        params, slots = jax.lax.cond(finite, move, kept, state)
    else:
        old, finite = jax.lax.optimization_barrier((state, finite))
        params, slots = jax.tree.map(functools.partial(jnp.where, finite), move(old), kept(old))
    return params, slots, jnp.where(finite, state.rate_scale, state.rate_scale * backoff)


def _largest(params: dict) -> Float[Array, ""]:
    """The largest absolute value of all parameters, NaN if one, or the sum of any, is not finite.

    The sum is there for NaN, which a maximum alone loses on a CPU in large or sharded arrays
    (findings/jax_cpu_max_loses_nan.sh).
    """

    def largest_of(leaf: Array) -> Float[Array, ""]:
        return (jnp.max(jnp.abs(leaf)) + 0 * jnp.sum(leaf)).astype(jnp.float32)

    return functools.reduce(jnp.maximum, map(largest_of, jax.tree.leaves(params)))


def _metrics(totals: Gradients, norm: Array, learning_rate: Array, largest: Array) -> Metrics:
    metrics = {
        "loss": totals.loss,
        "learning_rate": learning_rate,
        "grad_norm": norm,
        "param_max": largest,
    }
    for index, task in enumerate(losses.TASKS):
        metrics[f"{task}/loss_sum"] = totals.sums[index]
        metrics[f"{task}/correct_tokens"] = totals.num_correct[index]
        metrics[f"{task}/tokens"] = totals.counts[index]
    return metrics
