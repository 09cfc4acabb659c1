"""The building blocks of T5 in Flax linen.

Names and initialisers as in T5X's ``examples/t5/network.py``, but for the MLP's kernels, which are
truncated there and not here, at equal spread. Shapes use these letters: B batch,
L length, Q query length, D emb_dim, H num_heads, K head_dim, J = H K, V vocab_size.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, UInt16

from sbs_jax.configs import T5Config

_NUM_BUCKETS = 32
_MAX_DISTANCE = 128

MASKED = -1e10  # T5X's value; finite, so that a row of padding stays free of NaN

_ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=True),  # Hugging Face calls this one gelu_new
    "relu": nn.relu,
    "linear": lambda x: x,
}


def distance_buckets(distance: Int[np.ndarray, "*N"], bidirectional: bool) -> Int[np.ndarray, "*N"]:
    """T5's bucket of a key `distance` positions before its query; exact when near.

    A decoder (not bidirectional) uses all 32 buckets for the past; its future is masked anyway.
    """
    buckets, offset = _NUM_BUCKETS, np.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = (distance < 0) * buckets
        distance = np.abs(distance)
    distance = np.maximum(distance, 0)
    exact = buckets // 2
    ratio = np.maximum(distance, exact).astype(np.float32) / np.float32(exact)
    scale = np.float32(buckets - exact) / np.float32(np.log(_MAX_DISTANCE / exact))
    far = exact + (np.log(ratio + np.finfo(np.float32).eps) * scale).astype(np.int32)
    bucket = np.where(distance < exact, distance, np.minimum(far, buckets - 1))
    return (bucket + offset).astype(np.int32)


def rounded(initializer: Callable) -> Callable:
    """The initialiser's float32 values in any dtype.

    `jax.random` makes bfloat16 from 7 bits: 128 values (findings/jax_random_bfloat16.sh).
    """

    def draw(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return initializer(key, shape, jnp.float32).astype(dtype)

    return draw


class Dense(nn.Module):
    """A linear map without bias: parameter ``kernel`` (in, out) in param_dtype."""

    features: int
    config: T5Config
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B in_"]) -> Float[Array, "*B out"]:
        init = rounded(nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal"))
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.config.param_dtype)
        dtype = self.config.dtype
        return jnp.dot(x.astype(dtype), kernel.astype(dtype))


class Noise:
    """The dropout masks of a layer, taken in order from random numbers drawn at once.

    T5X shares a mask along the whole row, which saves a lot on CPU (a mask per element doubles
    the step of a small model). In a packed row that would tie unrelated examples together and
    train measurably worse, so here each of a row's `max_segments` has its own mask: packed or not,
    an example meets the same kind of noise. Rows with more sequences reuse masks.

    Args:
        bits: enough random numbers for all masks of the layer; see `noise_size`.
        rate: probability of a zero, exact to 2**-16.
        max_segments: sequences of a packed row that get their own mask.
        segment_ids: which sequence a position belongs to.
    """

    def __init__(
        self,
        bits: UInt16[Array, "B n"],
        rate: float,
        max_segments: int,
        segment_ids: Int[Array, "B L"],
    ) -> None:
        self._keep = bits >= jnp.uint16(round(rate * 2**16))
        self._scale = 1.0 / (1.0 - rate)
        self._max_segments = max_segments
        self._index = (segment_ids % max_segments)[:, :, None]
        self._used = 0

    def _next(self, *shape: int) -> Bool[Array, "B ..."]:
        start, self._used = self._used, self._used + math.prod(shape)
        return self._keep[:, start : self._used].reshape(-1, *shape)

    def _drop(self, x: Float[Array, "..."], keep: Bool[Array, "..."]) -> Float[Array, "..."]:
        return jnp.where(keep, x * x.dtype.type(self._scale), jnp.zeros((), x.dtype))

    def sequences(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """Drops features of whole sequences: one mask for all positions of a sequence."""
        keep = self._next(self._max_segments, x.shape[2])
        if self._max_segments > 1:
            keep = jnp.take_along_axis(keep, self._index, axis=1, mode="promise_in_bounds")
        return self._drop(x, keep)

    def keys(self, values: Float[Array, "B L H K"]) -> Float[Array, "B L H K"]:
        """Drops attention weights: one mask per key and head for all queries.

        A key belongs to one sequence, packed or not. Weights without a key's column times the
        values are the weights times the values without that key's row, so no mask over
        [B, H, Q, L] is needed, and attention kernels without dropout can be used.
        """
        return self._drop(values, self._next(*values.shape[1:3])[..., None])


def noise_size(
    config: T5Config, max_segments: int, parts: int, key_lengths: tuple[int, ...]
) -> int:
    """Random numbers per row for a layer that adds `parts` to the stream, one of them an MLP.

    Args:
        key_lengths: keys of each attention.
    """
    features = parts * config.emb_dim + (config.mlp_dim if key_lengths else 0)
    return max_segments * features + config.num_heads * sum(key_lengths)


class RMSNorm(nn.Module):
    """Scale without shift, statistics in float32; parameter ``scale`` (D,)."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return (x * scale[None, None, :]).astype(self.config.dtype)


class RelativePositionBias(nn.Module):
    """Parameter ``rel_embedding`` (H, 32), shared by all layers of a stack."""

    config: T5Config
    bidirectional: bool

    def setup(self) -> None:
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        shape = (self.config.num_heads, _NUM_BUCKETS)
        self.rel_embedding = self.param("rel_embedding", init, shape, jnp.float32)

    def __call__(self, query_length: int, key_length: int) -> Float[Array, "1 H Q L"]:
        # Position l of row q holds the bias of distance q - l. Rows that are one longer than
        # their content, laid end to end and cut again, shift by one a row: no gather of Q x L
        # numbers forward, and backward a sum over rows instead of a scatter.
        width = query_length + key_length
        offset = np.arange(width)
        distance = np.where(offset < key_length, -offset, width - offset)
        heads = self.config.num_heads
        row = self.rel_embedding[:, distance_buckets(distance, self.bidirectional)]
        rows = jnp.broadcast_to(row[:, None], (heads, query_length, width))
        flat = rows.reshape(heads, -1)[:, : query_length * (width - 1)]
        return flat.reshape(1, heads, query_length, width - 1)[..., :key_length]

    def of_last(self, index: Int[Array, ""], key_length: int) -> Float[Array, "1 H 1 L"]:
        """The bias of the query at position `index`; keys after it hold numbers to be masked."""
        distance = np.arange(key_length - 1, -key_length, -1)
        row = self.rel_embedding[:, distance_buckets(distance, self.bidirectional)]
        start = key_length - 1 - index
        return jax.lax.dynamic_slice_in_dim(row, start, key_length, axis=1)[None, :, None]


@jax.custom_vjp
def masked_bias(
    bias: Float[Array, "1 #H Q L"], mask: Bool[Array, "B 1 Q L"]
) -> Float[Array, "B #H Q L"]:
    """The bias where attention may look, `MASKED` elsewhere; gradients are summed in float32."""
    return jnp.where(mask, bias, jnp.asarray(MASKED, bias.dtype))


def _masked_bias_forward(bias: Float[Array, "1 #H Q L"], mask: Bool[Array, "B 1 Q L"]) -> tuple:
    return masked_bias(bias, mask), mask


def _masked_bias_backward(mask: Bool[Array, "B 1 Q L"], g: Float[Array, "B #H Q L"]) -> tuple:
    total = jnp.sum(jnp.where(mask, g, 0), axis=0, keepdims=True, dtype=jnp.float32)
    return total.astype(g.dtype), None


masked_bias.defvjp(_masked_bias_forward, _masked_bias_backward)


class Attention(nn.Module):
    """Multi-head attention, unscaled as in T5: 1/sqrt(K) sits in the query's initialiser.

    Attributes:
        fused: use cuDNN's kernel, which keeps no [B, H, Q, L] in memory.
    """

    config: T5Config
    fused: bool = False

    def setup(self) -> None:
        cfg = self.config
        joined = cfg.num_heads * cfg.head_dim
        self.query = Dense(joined, cfg, init_scale=1.0 / cfg.head_dim)
        self.key = Dense(joined, cfg)
        self.value = Dense(joined, cfg)
        self.out = Dense(cfg.emb_dim, cfg)

    def _split(self, x: Float[Array, "B L J"]) -> Float[Array, "B L H K"]:
        heads = x.reshape(*x.shape[:2], self.config.num_heads, self.config.head_dim)
        return nn.with_logical_constraint(heads, ("batch", "length", "heads", "kv"))

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        source: Float[Array, "B L D"],
        bias: Float[Array, "#B #H Q L"],
        noise: Noise | None,
    ) -> Float[Array, "B Q D"]:
        """Whole sequences: queries from `x`, keys and values from `source`."""
        query, keys = self._split(self.query(x)), self._split(self.key(source))
        values = self._split(self.value(source))
        if noise is not None:
            values = noise.keys(values)
        if self.fused:
            mixed = jax.nn.dot_product_attention(
                query, keys, values, bias, scale=1.0, implementation="cudnn"
            )
        else:
            scores = jnp.einsum("bqhk,blhk->bhql", query, keys, preferred_element_type=jnp.float32)
            weights = jax.nn.softmax(scores + bias).astype(self.config.dtype)
            mixed = jnp.einsum("bhql,blhk->bqhk", weights, values)
        return self.out(mixed.reshape(*mixed.shape[:2], -1))

    def keys_values(
        self, x: Float[Array, "B L D"]
    ) -> tuple[Float[Array, "B H L K"], Float[Array, "B H L K"]]:
        """What a cache holds: projected keys and values."""
        keys, values = self._split(self.key(x)), self._split(self.value(x))
        return keys.transpose(0, 2, 1, 3), values.transpose(0, 2, 1, 3)

    def cached(
        self,
        x: Float[Array, "B Q D"],
        keys: Float[Array, "B H L K"],
        values: Float[Array, "B H L K"],
        bias: Float[Array, "#B #H Q L"],
    ) -> Float[Array, "B Q D"]:
        """Attention of new positions to the keys and values of a cache."""
        query = self._split(self.query(x))
        scores = jnp.einsum("bqhk,bhlk->bhql", query, keys, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias).astype(self.config.dtype)
        mixed = jnp.einsum("bhql,bhlk->bqhk", weights, values)
        return self.out(mixed.reshape(*mixed.shape[:2], -1))


class MlpBlock(nn.Module):
    """Feed-forward: parameters ``wi`` or, gated, ``wi_0`` (activated) and ``wi_1``; then ``wo``."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], noise: Noise | None) -> Float[Array, "B L D"]:
        cfg = self.config
        hidden = None
        for i, activation in enumerate(cfg.mlp_activations):
            name = "wi" if len(cfg.mlp_activations) == 1 else f"wi_{i}"
            part = _ACTIVATIONS[activation](Dense(cfg.mlp_dim, cfg, name=name)(x))
            hidden = part if hidden is None else hidden * part
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        if noise is not None:
            hidden = noise.sequences(hidden)
        return Dense(cfg.emb_dim, cfg, name="wo")(hidden)


@jax.custom_vjp
def _project_to_float32(x: Float[Array, "B L D"], kernel: Float[Array, "D V"]):
    """x @ kernel in float32; the gradient meets x and kernel in their own dtype.

    Left to autodiff, two float32 products of [L, V] would be the most expensive of a bfloat16 step.
    """
    return jnp.dot(x, kernel, preferred_element_type=jnp.float32)


def _project_forward(x: Float[Array, "B L D"], kernel: Float[Array, "D V"]) -> tuple:
    return _project_to_float32(x, kernel), (x, kernel)


def _project_backward(operands: tuple, g: Float[Array, "B L V"]) -> tuple:
    x, kernel = operands
    g = g.astype(x.dtype)
    return jnp.einsum("blv,dv->bld", g, kernel), jnp.einsum("bld,blv->dv", x, g)


_project_to_float32.defvjp(_project_forward, _project_backward)


class LogitsDense(nn.Module):
    """Vocabulary logits, accumulated in float32 whatever the compute dtype."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        cfg = self.config
        init = rounded(nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal"))
        kernel = self.param("kernel", init, (cfg.emb_dim, cfg.vocab_size), cfg.param_dtype)
        return _project_to_float32(x.astype(cfg.dtype), kernel.astype(cfg.dtype))


class TokenEmbedder(nn.Module):
    """Parameter ``embedding`` (V, D), used by encoder, decoder and, in T5 1.0, the logits."""

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        init = rounded(nn.initializers.normal(stddev=1.0))
        shape = (cfg.vocab_size, cfg.emb_dim)
        self.embedding = self.param("embedding", init, shape, cfg.param_dtype)

    def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        # A gather: the one-hot product of T5X costs 28x on CPU (docs/performance.md).
        x = jnp.take(self.embedding, tokens, axis=0).astype(self.config.dtype)
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))

    def attend(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        dtype = self.config.dtype
        logits = _project_to_float32(x.astype(dtype), self.embedding.T.astype(dtype))
        return logits / jnp.sqrt(jnp.float32(x.shape[-1]))
