"""Greedy decoding with a key/value cache, stopped as soon as every row has ended."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models.t5 import Transformer

EOS_ID = 1
PAD_ID = 0  # also the decoder's start token, as in T5


@functools.partial(jax.jit, static_argnames=("config", "partitioner", "max_decode_length"))
def greedy(
    params: dict,
    encoder_input_tokens: Int[Array, "B L"],
    *,
    config: T5Config,
    partitioner: Partitioner,
    max_decode_length: int,
) -> Int[Array, "B T"]:
    """The most likely next token, again and again.

    Args:
        params: of a `Transformer` with `config`.
        encoder_input_tokens: int32, one question a row, padded with 0; any width.
        max_decode_length: T, the most new tokens of a row. The original's generation_max_length
            counts its start token, so its 64 is 63 here.

    Returns:
        int32 token ids without the start token; 0 after a row's EOS. A row's result does not
        depend on the other rows or on padding.
    """
    model = Transformer(config)
    variables = {"params": params}
    segments = (encoder_input_tokens > 0).astype(jnp.int32)
    rows = encoder_input_tokens.shape[0]

    def step(index: Int[Array, ""], tokens: Int[Array, " B"], caches: list) -> tuple:
        return model.apply(
            variables, tokens, index, caches, segments > 0, method=Transformer.decode_step
        )

    def unfinished(carry: tuple) -> Array:
        index, _, _, ended, _ = carry
        return (index < max_decode_length) & ~jnp.all(ended)

    def advance(carry: tuple) -> tuple:
        index, tokens, caches, ended, output = carry
        logits, caches = step(index, tokens, caches)
        tokens = jnp.where(ended, PAD_ID, first_argmax(logits))
        output = jax.lax.dynamic_update_slice_in_dim(output, tokens[:, None], index, axis=1)
        return index + 1, tokens, caches, ended | (tokens == EOS_ID), output

    with partitioner.activations():
        encoded = model.apply(variables, encoder_input_tokens, segments, method=Transformer.encode)
        caches = model.apply(variables, encoded, max_decode_length, method=Transformer.init_cache)
        start = (
            jnp.zeros((), jnp.int32),
            jnp.full((rows,), PAD_ID, jnp.int32),
            caches,
            # A row of padding (the last batch's filling) has nothing to say.
            jnp.all(segments == 0, axis=1),
            jnp.zeros((rows, max_decode_length), jnp.int32),
        )
        return jax.lax.while_loop(unfinished, advance, start)[-1]


def first_argmax(logits: Float[Array, "B V"], block: int = 128) -> Int[Array, " B"]:
    """Index of the first largest logit, block by block: XLA:CPU's argmax over 32k is 10x slower."""
    rows, size = logits.shape
    padded = jnp.pad(logits, ((0, 0), (0, -size % block)), constant_values=-jnp.inf)
    blocks = padded.reshape(rows, -1, block)
    best = jnp.argmax(jnp.max(blocks, axis=-1), axis=-1)
    inside = jnp.take_along_axis(blocks, best[:, None, None], axis=1)[:, 0]
    return (best * block + jnp.argmax(inside, axis=-1)).astype(jnp.int32)
