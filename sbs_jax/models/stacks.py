"""Runs a stack of layers: one traced layer for all, in a loop or one after another, under remat."""

from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, UInt16

from sbs_jax.configs import T5Config
from sbs_jax.models.layers import noise_size

# What a layer keeps for the backward pass besides its input; T5X's names of the policies.
_REMAT_POLICIES = {
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def remat(layer: type[nn.Module], config: T5Config) -> type[nn.Module]:
    """The layer class under the configured policy."""
    if config.remat_policy == "none":
        return layer
    policy = _REMAT_POLICIES[config.remat_policy]
    # A loop's body has nothing to merge with.
    return nn.remat(layer, policy=policy, prevent_cse=not config.scan_layers)


def run_layers(
    stack: nn.Module,
    layer: nn.Module,
    count: int,
    x: Float[Array, "B L D"],
    bits: UInt16[Array, "N B n"] | None,
    *inputs: Array,
) -> Float[Array, "B L D"]:
    """Applies `count` layers of a stack to x; traces one for all.

    Args:
        layer: unbound; the parameters are those of ``layers_0``, ``layers_1``, ... in `stack`, or
            of ``layers``, where they are stacked.
        bits: random numbers of each layer's dropout; None drops nothing.
        inputs: what every layer is called with besides.
    """
    params = stack.variables["params"]

    def run(params: dict, x: Array, bits: Array | None, *inputs: Array) -> Array:
        return cast(Array, layer.apply({"params": params}, x, bits, *inputs))

    if not stack.config.scan_layers:
        run = jax.jit(run)
        for i in range(count):
            x = run(params[f"layers_{i}"], x, None if bits is None else bits[i], *inputs)
        return x
    stacked = params["layers"] if "layers" in params else _stacked(params, count, stack.config)

    def body(x: Array, item: tuple) -> tuple[Array, None]:
        return run(item[0], x, item[1], *inputs), None

    return jax.lax.scan(body, x, (stacked, bits))[0]


def _stacked(params: Mapping[str, Any], count: int, config: T5Config) -> dict:
    """The parameters of all layers, matrices in the computation's dtype: a copy no larger."""

    def stack(*leaves: Float[Array, "..."]) -> Float[Array, "N ..."]:
        return jnp.stack([leaf.astype(config.dtype) if leaf.ndim > 1 else leaf for leaf in leaves])

    return jax.tree.map(stack, *(params[f"layers_{i}"] for i in range(count)))


def draw_bits(
    stack: nn.Module, deterministic: bool, layers: int, rows: Any, parts: int, *key_lengths: int
) -> tuple[UInt16[Array, "N B n"], UInt16[Array, "B m"]] | tuple[None, None]:
    """Random numbers for all dropout masks of a stack: of its layers, and around them.

    Args:
        rows: an int, or a symbolic dimension while a program is exported.
    """
    cfg: T5Config = stack.config
    if deterministic or cfg.dropout_rate == 0.0:
        return None, None
    size = noise_size(cfg, stack.max_segments, parts, key_lengths)
    around = noise_size(cfg, stack.max_segments, 2, ())
    bits = jax.random.bits(stack.make_rng("dropout"), (rows, layers * size + around), jnp.uint16)
    inside = bits[:, around:].reshape(rows, layers, size).swapaxes(0, 1)
    return inside, bits[:, :around]
