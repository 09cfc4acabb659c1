"""The parts of a T5 in Flax linen: what stands inside a layer, and around the stacks of layers.

Names and initialisers as in T5X's ``examples/t5/network.py``, but for the MLP's kernels, which are
truncated there and not here, at equal spread. Shapes use these letters: B batch,
L length, Q query length, D emb_dim, H num_heads, K head_dim, J = H K, V vocab_size.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from sbs_jax.configs import T5Config

_NUM_BUCKETS = 32
_MAX_DISTANCE = 128

_ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=True),  # Hugging Face calls this one gelu_new
    "relu": nn.relu,
    "linear": lambda x: x,
}


def relative_position_buckets(
    query_length: int, key_length: int, bidirectional: bool
) -> Int[np.ndarray, "query key"]:
    """T5's bucket of every (query, key) distance: exact when near, logarithmic when far.

    A decoder (not bidirectional) uses all 32 buckets for the past; its future is masked anyway.
    """
    distance = np.arange(query_length)[:, None] - np.arange(key_length)[None, :]
    buckets, offset = _NUM_BUCKETS, 0
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


class Dense(nn.Module):
    """A linear map without bias: parameter ``kernel`` (in, out) in param_dtype."""

    features: int
    config: T5Config
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B in_"]) -> Float[Array, "*B out"]:
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.config.param_dtype)
        dtype = self.config.dtype
        return jnp.dot(x.astype(dtype), kernel.astype(dtype))


class SequenceDropout(nn.Module):
    """Dropout whose mask is drawn once per sequence and holds for all its positions.

    T5X shares a mask along the whole row, a large saving on CPU (a mask per element doubles the
    step of a small model). In a packed row that would tie unrelated questions together and train
    measurably worse, so here each of a row's `segments` has a mask of its own: packed or not, a
    question meets the same kind of noise. Rows with more sequences reuse masks.
    """

    rate: float
    segments: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], segment_ids: Int[Array, "B L"], deterministic: bool
    ) -> Float[Array, "B L D"]:
        if deterministic or self.rate == 0.0:
            return x
        shape = (x.shape[0], self.segments, x.shape[2])
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, shape)
        if self.segments > 1:
            index = (segment_ids % self.segments)[:, :, None]
            keep = jnp.take_along_axis(keep, index, axis=1)
        return jnp.where(keep, x / (1.0 - self.rate), jnp.zeros((), x.dtype))


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

    @nn.compact
    def __call__(self, query_length: int, key_length: int) -> Float[Array, "1 H Q L"]:
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        shape = (self.config.num_heads, _NUM_BUCKETS)
        table = self.param("rel_embedding", init, shape, jnp.float32)
        buckets = relative_position_buckets(query_length, key_length, self.bidirectional)
        return table[:, buckets][None]


class Attention(nn.Module):
    """Multi-head attention, unscaled as in T5: 1/sqrt(K) sits in the query's initialiser."""

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        joined = cfg.num_heads * cfg.head_dim
        self.query = Dense(joined, cfg, init_scale=1.0 / cfg.head_dim)
        self.key = Dense(joined, cfg)
        self.value = Dense(joined, cfg)
        self.out = Dense(cfg.emb_dim, cfg)
        # One mask per key for all queries: a key belongs to one sequence, packed or not.
        self.dropout = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))

    def _split(self, x: Float[Array, "B L J"]) -> Float[Array, "B H L K"]:
        heads = x.reshape(*x.shape[:2], self.config.num_heads, self.config.head_dim)
        heads = nn.with_logical_constraint(heads, ("batch", "length", "heads", "kv"))
        return heads.transpose(0, 2, 1, 3)

    def keys_values(
        self, x: Float[Array, "B L D"]
    ) -> tuple[Float[Array, "B H L K"], Float[Array, "B H L K"]]:
        """What a cache holds: projected keys and values."""
        return self._split(self.key(x)), self._split(self.value(x))

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        keys: Float[Array, "B H L K"],
        values: Float[Array, "B H L K"],
        bias: Float[Array, "#B #H Q L"],
        deterministic: bool,
    ) -> Float[Array, "B Q D"]:
        query = self._split(self.query(x))
        scores = jnp.einsum("bhqk,bhlk->bhql", query, keys, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias).astype(self.config.dtype)
        weights = self.dropout(weights, deterministic=deterministic)
        mixed = jnp.einsum("bhql,bhlk->bqhk", weights, values)
        return self.out(mixed.reshape(*mixed.shape[:2], -1))


class MlpBlock(nn.Module):
    """Feed-forward: parameters ``wi`` or, gated, ``wi_0`` (activated) and ``wi_1``; then ``wo``."""

    config: T5Config
    segments: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], segment_ids: Int[Array, "B L"], deterministic: bool
    ) -> Float[Array, "B L D"]:
        cfg = self.config
        hidden = None
        for i, activation in enumerate(cfg.mlp_activations):
            name = "wi" if len(cfg.mlp_activations) == 1 else f"wi_{i}"
            part = _ACTIVATIONS[activation](Dense(cfg.mlp_dim, cfg, name=name)(x))
            hidden = part if hidden is None else hidden * part
        hidden = nn.with_logical_constraint(hidden, ("batch", "length", "mlp"))
        dropout = SequenceDropout(cfg.dropout_rate, self.segments)
        hidden = dropout(hidden, segment_ids, deterministic)
        return Dense(cfg.emb_dim, cfg, name="wo")(hidden)


class LogitsDense(nn.Module):
    """Vocabulary logits, accumulated in float32 whatever the compute dtype."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        cfg = self.config
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        kernel = self.param("kernel", init, (cfg.emb_dim, cfg.vocab_size), cfg.param_dtype)
        dtype = cfg.dtype
        return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


class TokenEmbedder(nn.Module):
    """Parameter ``embedding`` (V, D), used by encoder, decoder and, in T5 1.0, the logits."""

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        init = nn.initializers.normal(stddev=1.0)
        shape = (cfg.vocab_size, cfg.emb_dim)
        self.embedding = self.param("embedding", init, shape, cfg.param_dtype)

    def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        # A gather: the one-hot product of T5X costs 28x on CPU (docs/performance.md).
        x = jnp.take(self.embedding, tokens, axis=0).astype(self.config.dtype)
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))

    def attend(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        dtype = self.config.dtype
        logits = jnp.dot(
            x.astype(dtype), self.embedding.T.astype(dtype), preferred_element_type=jnp.float32
        )
        return logits / jnp.sqrt(jnp.float32(x.shape[-1]))
