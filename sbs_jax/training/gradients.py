"""Loss and gradients of one batch, whole or in micro-batches."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sbs_jax.configs import T5Config
from sbs_jax.models.t5 import Transformer
from sbs_jax.training import losses
from sbs_jax.training.stochastic_rounding import widen

Batch = dict[str, Int[Array, "B _"]]

# How the token counts that normalise a task's loss are taken.
GLOBAL = "global"  # over the whole batch: micro-batches change nothing
PER_MICROBATCH = "per_microbatch"  # the original's gradient accumulation: mean of means


class Gradients(flax.struct.PyTreeNode):
    """What a batch asks for.

    Attributes:
        grads: of the loss, float32, in the structure of the parameters.
        loss: the objective's value.
        sums: cross-entropy summed over each task's tokens.
        hits: target tokens of each task that had the highest logit.
        counts: target tokens of each task.
    """

    grads: dict
    loss: Float[Array, ""]
    sums: Float[Array, " tasks"]
    hits: Float[Array, " tasks"]
    counts: Float[Array, " tasks"]


def make_gradients(
    config: T5Config,
    task_weights: Float[Array, " tasks"],
    *,
    segments: int = 1,
    num_microbatches: int = 1,
    normalization: str = GLOBAL,
) -> Callable[[dict, Batch, Array], Gradients]:
    """(parameters, batch, dropout's rng) -> `Gradients`; arguments as in `step.make_train_step`."""
    model = Transformer(config, segments)
    dropout = config.dropout_rate > 0.0

    def loss_fn(params: dict, batch: Batch, counts: Float[Array, " tasks"], rng: Array):
        rngs = {"dropout": rng} if dropout else None
        logits = model.apply({"params": params}, batch, deterministic=not dropout, rngs=rngs)
        sums, hits = losses.task_sums(logits, batch)
        return losses.combine(sums, counts, task_weights), (sums, hits)

    def of_rows(params: dict, batch: Batch, divisor: Float[Array, " tasks"], rng: Array) -> tuple:
        """(gradients, loss, sums, hits), all of which add up over micro-batches."""
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (sums, hits)), grads = grad_fn(params, batch, divisor, rng)
        return widen(grads), loss, sums, hits

    def gradients(params: dict, batch: Batch, rng: Array) -> Gradients:
        counts = losses.task_counts(batch)
        if num_microbatches == 1:
            return Gradients(*of_rows(params, batch, counts, rng), counts)

        def accumulate(total: tuple, item: tuple[Array, Batch]) -> tuple[tuple, None]:
            index, rows = item
            own = losses.task_counts(rows) * num_microbatches
            divisor = counts if normalization == GLOBAL else own
            found = of_rows(params, rows, divisor, jax.random.fold_in(rng, index))
            return jax.tree.map(jnp.add, total, found), None

        grouped = {
            name: rows.reshape(num_microbatches, -1, rows.shape[1]) for name, rows in batch.items()
        }
        zeros = jnp.zeros(len(losses.TASKS))
        start = (jax.tree.map(jnp.zeros_like, widen(params)), jnp.zeros(()), zeros, zeros)
        total, _ = jax.lax.scan(accumulate, start, (jnp.arange(num_microbatches), grouped))
        return Gradients(*total, counts)

    return gradients
