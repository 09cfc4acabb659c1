"""The paper's equation as pure functions: logits and a batch to per-task sums and counts.

    loss = alpha * mean over label tokens + (1 - alpha) * mean over rationale tokens

(Hsieh et al. 2023, equation 3, and the released code: each task is the mean over its own target
tokens.) Means are over the whole batch, however it is packed, sharded or cut into micro-batches:
everything stays a sum and a count until `weighted_loss`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sbs_jax.datasets.methods import TaskId

TASKS = tuple(task.key for task in TaskId)  # order of every per-task vector


def task_weights(tasks: tuple[str, ...], alpha: float) -> Float[Array, " tasks"]:
    """Weight of each task's mean: (alpha, 1 - alpha), or 1 for the only task there is.

    A single task is not scaled by alpha, as in the original: with clipping, scale matters.
    """
    if not 0.0 <= alpha <= 1.0:
        raise ValueError(f"alpha is {alpha}; it must lie between 0 and 1")
    if len(tasks) == 1:
        return jnp.array([1.0 if name in tasks else 0.0 for name in TASKS], jnp.float32)
    return jnp.array([alpha, 1.0 - alpha], jnp.float32)


def _task_masks(batch: dict[str, Int[Array, "B _"]]) -> Float[Array, "tasks B Q"]:
    ids = jnp.array([int(task) for task in TaskId])
    mine = batch["decoder_task_ids"][None] == ids[:, None, None]
    return (mine & (batch["decoder_loss_weights"][None] > 0)).astype(jnp.float32)


def task_counts(batch: dict[str, Int[Array, "B _"]]) -> Float[Array, " tasks"]:
    """Target tokens of each task in the batch."""
    return jnp.sum(_task_masks(batch), axis=(1, 2))


def task_sums(
    logits: Float[Array, "B Q V"], batch: dict[str, Int[Array, "B _"]]
) -> tuple[Float[Array, " tasks"], Float[Array, " tasks"]]:
    """Per task: summed cross-entropy in nats and correctly predicted target tokens."""
    losses, correct = cross_entropy(logits, batch["decoder_target_tokens"])
    masks = _task_masks(batch)
    return (
        jnp.sum(masks * losses[None], axis=(1, 2)),
        jnp.sum(masks * correct[None], axis=(1, 2)),
    )


@jax.custom_vjp
def cross_entropy(
    logits: Float[Array, "B Q V"], targets: Int[Array, "B Q"]
) -> tuple[Float[Array, "B Q"], Float[Array, "B Q"]]:
    """-log softmax(logits)[target] in nats, and 1.0 where no logit is above the target's.

    The gradient is softmax(logits) - one_hot(target), in one pass over the logits: autodiff would
    scatter the targets' part into an array of zeros as large.
    """
    return _cross_entropy_forward(logits, targets)[0]


def _cross_entropy_forward(logits: Float[Array, "B Q V"], targets: Int[Array, "B Q"]) -> tuple:
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    largest = jnp.max(logits, axis=-1)
    normalizer = largest + jnp.log(jnp.sum(jnp.exp(logits - largest[..., None]), axis=-1))
    correct = (chosen >= largest).astype(jnp.float32)
    return (normalizer - chosen, correct), (logits, targets, normalizer)


def _cross_entropy_backward(kept: tuple, g: tuple) -> tuple[Array, None]:
    logits, targets, normalizer = kept
    is_target = jnp.arange(logits.shape[-1])[None, None] == targets[..., None]
    slope = jnp.exp(logits - normalizer[..., None]) - is_target
    return slope * g[0][..., None], None


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def weighted_loss(
    loss_sums: Float[Array, " tasks"],
    counts: Float[Array, " tasks"],
    weights: Float[Array, " tasks"],
) -> Float[Array, ""]:
    """The scalar to minimise; a task without tokens in the batch contributes nothing."""
    return jnp.sum(weights * loss_sums / jnp.maximum(counts, 1.0))
