"""Updates bfloat16 parameters in float32 and rounds them stochastically.

Near 1, bfloat16 steps by 2**-8: rounded to the nearest, an update of a fine-tuning rate would be
lost every time. Rounded up or down at random, by how near each neighbour is, it arrives in the mean
(Zamirai et al. 2020, arXiv 2010.06192). No float32 copy of the parameters exists.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, BFloat16, Float, Float32


def widen(tree: optax.Updates) -> optax.Updates:
    """Every leaf as float32."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def in_float32(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimizer with slots and arithmetic in float32, whatever the parameters are."""

    def update(grads: optax.Updates, state: optax.OptState, params: optax.Params):
        return optimizer.update(widen(grads), state, widen(params))

    return optax.GradientTransformation(lambda params: optimizer.init(widen(params)), update)


def stochastic_round(x: Float32[Array, "*shape"], rng: Array) -> BFloat16[Array, "*shape"]:
    """One of the two bfloat16 neighbours of x, the nearer the likelier; exact values stay.

    A bfloat16 is the upper half of a float32: random bits added to the lower half carry into the
    upper one exactly as often as they should, for either sign.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(rng, x.shape, jnp.uint16).astype(jnp.uint32)
    upper = ((bits + noise) >> 16).astype(jnp.uint16)
    rounded = jax.lax.bitcast_convert_type(upper, jnp.bfloat16)
    return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def apply_updates(
    params: optax.Params, updates: optax.Updates, scale: Float[Array, ""], rng: Array
) -> optax.Params:
    """params + scale * updates in the parameters' dtypes; the updates are float32.

    Args:
        rng: decides the rounding of bfloat16 parameters, each leaf by a separate stream.
    """
    leaves, structure = jax.tree.flatten(params)
    moved = []
    for index, (leaf, update) in enumerate(zip(leaves, jax.tree.leaves(updates), strict=True)):
        total = leaf.astype(jnp.float32) + scale * update
        if leaf.dtype == jnp.bfloat16:
            total = stochastic_round(total, jax.random.fold_in(rng, index))
        moved.append(total)
    return jax.tree.unflatten(structure, moved)
