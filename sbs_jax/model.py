"""T5 in Flax linen, with T5X's parameter names so that public T5X checkpoints load by name.

One architecture serves T5 v1.1, Flan-T5, mT5 and ByT5 (gated GELU, untied logits) and T5 1.0 (ReLU,
logits from the embedding). Shapes use these letters: B batch, L length, D emb_dim, H num_heads,
K head_dim, V vocab_size. Attention never mixes segments: packed rows mean the same as padded ones.

Sources: Raffel et al. 2020 (arXiv 1910.10683) section 2.1; names and initialisers as in T5X
``examples/t5/network.py``; checked against Hugging Face's T5 by tests/test_parity.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from sbs_jax.configs import T5Config

_NUM_BUCKETS = 32
_MAX_DISTANCE = 128
_MASKED = -1e10  # T5X's value; finite, so that a row of padding stays free of NaN

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
    """A linear map without bias: parameter ``kernel`` (in, out), float32."""

    features: int
    config: T5Config
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*B in_"]) -> Float[Array, "*B out"]:
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "normal")
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
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


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normalised before and added to its input."""

    config: T5Config
    segments: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        bias: Float[Array, "B H L L"],
        segment_ids: Int[Array, "B L"],
        deterministic: bool,
    ) -> Float[Array, "B L D"]:
        cfg = self.config

        def dropout(y: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
            drop = SequenceDropout(cfg.dropout_rate, self.segments)
            return drop(y, segment_ids, deterministic)

        attention = Attention(cfg, name="attention")
        y = RMSNorm(cfg, name="pre_attention_layer_norm")(x)
        x = x + dropout(attention(y, *attention.keys_values(y), bias, deterministic))
        y = RMSNorm(cfg, name="pre_mlp_layer_norm")(x)
        x = x + dropout(MlpBlock(cfg, self.segments, name="mlp")(y, segment_ids, deterministic))
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, feed-forward.

    Training passes whole sequences; decoding passes one position and a cache of the keys and
    values of the positions before it.
    """

    config: T5Config
    segments: int

    def setup(self) -> None:
        cfg = self.config
        self.pre_self_attention_layer_norm = RMSNorm(cfg)
        self.self_attention = Attention(cfg)
        self.pre_cross_attention_layer_norm = RMSNorm(cfg)
        self.encoder_decoder_attention = Attention(cfg)
        self.pre_mlp_layer_norm = RMSNorm(cfg)
        self.mlp = MlpBlock(cfg, self.segments)
        self.dropout = SequenceDropout(cfg.dropout_rate, self.segments)

    def _cross_and_mlp(
        self,
        x: Float[Array, "B Q D"],
        encoded_keys: Float[Array, "B H L K"],
        encoded_values: Float[Array, "B H L K"],
        cross_bias: Float[Array, "B 1 Q L"],
        segment_ids: Int[Array, "B Q"],
        deterministic: bool,
    ) -> Float[Array, "B Q D"]:
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(
            y, encoded_keys, encoded_values, cross_bias, deterministic
        )
        x = x + self.dropout(y, segment_ids, deterministic)
        y = self.mlp(self.pre_mlp_layer_norm(x), segment_ids, deterministic)
        x = x + self.dropout(y, segment_ids, deterministic)
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        encoded: Float[Array, "B L D"],
        self_bias: Float[Array, "B H Q Q"],
        cross_bias: Float[Array, "B 1 Q L"],
        segment_ids: Int[Array, "B Q"],
        deterministic: bool,
    ) -> Float[Array, "B Q D"]:
        y = self.pre_self_attention_layer_norm(x)
        keys, values = self.self_attention.keys_values(y)
        y = self.self_attention(y, keys, values, self_bias, deterministic)
        x = x + self.dropout(y, segment_ids, deterministic)
        keys, values = self.encoder_decoder_attention.keys_values(encoded)
        return self._cross_and_mlp(x, keys, values, cross_bias, segment_ids, deterministic)

    def encoder_keys_values(
        self, encoded: Float[Array, "B L D"]
    ) -> tuple[Float[Array, "B H L K"], Float[Array, "B H L K"]]:
        return self.encoder_decoder_attention.keys_values(encoded)

    def step(
        self,
        x: Float[Array, "B 1 D"],
        index: Int[Array, ""],
        cache: dict[str, Float[Array, "B H _ K"]],
        self_bias: Float[Array, "1 H 1 T"],
        cross_bias: Float[Array, "B 1 1 L"],
    ) -> tuple[Float[Array, "B 1 D"], dict[str, Float[Array, "B H _ K"]]]:
        """One position: writes its keys and values at `index` and attends to all before it."""
        y = self.pre_self_attention_layer_norm(x)
        key, value = self.self_attention.keys_values(y)
        cache = {
            **cache,
            "key": jax.lax.dynamic_update_slice_in_dim(cache["key"], key, index, axis=2),
            "value": jax.lax.dynamic_update_slice_in_dim(cache["value"], value, index, axis=2),
        }
        x = x + self.self_attention(y, cache["key"], cache["value"], self_bias, True)
        keys, values = cache["encoder_key"], cache["encoder_value"]
        one_segment = jnp.ones(x.shape[:2], jnp.int32)
        x = self._cross_and_mlp(x, keys, values, cross_bias, one_segment, True)
        return x, cache


class Encoder(nn.Module):
    """The encoder stack; `relpos_bias` is shared by its layers."""

    config: T5Config
    segments: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], segment_ids: Int[Array, "B L"], deterministic: bool
    ) -> Float[Array, "B L D"]:
        cfg = self.config
        dropout = SequenceDropout(cfg.dropout_rate, self.segments)
        length = x.shape[1]
        bias = RelativePositionBias(cfg, bidirectional=True, name="relpos_bias")(length, length)
        bias = jnp.where(_same_segment(segment_ids, segment_ids), bias, _MASKED)
        layer = nn.remat(EncoderLayer, static_argnums=(4,)) if cfg.remat else EncoderLayer
        x = dropout(x, segment_ids, deterministic)
        for i in range(cfg.num_encoder_layers):
            x = layer(cfg, self.segments, name=f"layers_{i}")(x, bias, segment_ids, deterministic)
        return dropout(RMSNorm(cfg, name="encoder_norm")(x), segment_ids, deterministic)


class Decoder(nn.Module):
    """The decoder stack, for whole sequences (training) or position by position (decoding)."""

    config: T5Config
    segments: int

    def setup(self) -> None:
        cfg = self.config
        layer = nn.remat(DecoderLayer, static_argnums=(6,)) if cfg.remat else DecoderLayer
        self.relpos_bias = RelativePositionBias(cfg, bidirectional=False)
        self.layers = [layer(cfg, self.segments) for _ in range(cfg.num_decoder_layers)]
        self.decoder_norm = RMSNorm(cfg)
        self.dropout = SequenceDropout(cfg.dropout_rate, self.segments)
        if not cfg.logits_via_embedding:
            self.logits_dense = LogitsDense(cfg)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        encoded: Float[Array, "B L D"],
        segment_ids: Int[Array, "B Q"],
        encoder_segment_ids: Int[Array, "B L"],
        deterministic: bool,
    ) -> Float[Array, "B Q D"]:
        length = x.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        self_mask = _same_segment(segment_ids, segment_ids) & causal
        self_bias = jnp.where(self_mask, self.relpos_bias(length, length), _MASKED)
        cross_mask = _same_segment(segment_ids, encoder_segment_ids)
        cross_bias = jnp.where(cross_mask, 0.0, _MASKED)
        x = self.dropout(x, segment_ids, deterministic)
        for layer in self.layers:
            x = layer(x, encoded, self_bias, cross_bias, segment_ids, deterministic)
        return self.dropout(self.decoder_norm(x), segment_ids, deterministic)

    def init_cache(
        self, encoded: Float[Array, "B L D"], max_length: int
    ) -> list[dict[str, Float[Array, "B H _ K"]]]:
        cfg = self.config
        shape = (encoded.shape[0], cfg.num_heads, max_length, cfg.head_dim)
        empty = jnp.zeros(shape, cfg.dtype)
        caches = []
        for layer in self.layers:
            key, value = layer.encoder_keys_values(encoded)
            caches.append(
                {"key": empty, "value": empty, "encoder_key": key, "encoder_value": value}
            )
        return caches

    def step(
        self,
        x: Float[Array, "B 1 D"],
        index: Int[Array, ""],
        caches: list[dict[str, Float[Array, "B H _ K"]]],
        encoder_mask: Bool[Array, "B L"],
    ) -> tuple[Float[Array, "B 1 D"], list[dict[str, Float[Array, "B H _ K"]]]]:
        max_length = caches[0]["key"].shape[2]
        bias = self.relpos_bias(max_length, max_length)
        bias = jax.lax.dynamic_slice_in_dim(bias, index, 1, axis=2)
        past = jnp.arange(max_length) <= index
        self_bias = jnp.where(past[None, None, None, :], bias, _MASKED)
        cross_bias = jnp.where(encoder_mask[:, None, None, :], 0.0, _MASKED)
        updated = []
        for layer, cache in zip(self.layers, caches, strict=True):
            x, cache = layer.step(x, index, cache, self_bias, cross_bias)
            updated.append(cache)
        return self.decoder_norm(x), updated


class LogitsDense(nn.Module):
    """Vocabulary logits, accumulated in float32 whatever the compute dtype."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        cfg = self.config
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        kernel = self.param("kernel", init, (cfg.emb_dim, cfg.vocab_size), jnp.float32)
        dtype = cfg.dtype
        return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


class TokenEmbedder(nn.Module):
    """Parameter ``embedding`` (V, D), used by encoder, decoder and, in T5 1.0, the logits."""

    config: T5Config

    def setup(self) -> None:
        cfg = self.config
        init = nn.initializers.normal(stddev=1.0)
        self.embedding = self.param("embedding", init, (cfg.vocab_size, cfg.emb_dim), jnp.float32)

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


class Transformer(nn.Module):
    """The encoder-decoder; parameter tree as in T5X: token_embedder, encoder, decoder.

    Attributes:
        segments: most sequences of a packed row that get a dropout mask of their own.
    """

    config: T5Config
    segments: int = 1

    def setup(self) -> None:
        self.token_embedder = TokenEmbedder(self.config)
        self.encoder = Encoder(self.config, self.segments)
        self.decoder = Decoder(self.config, self.segments)

    def encode(
        self,
        tokens: Int[Array, "B L"],
        segment_ids: Int[Array, "B L"],
        deterministic: bool = True,
    ) -> Float[Array, "B L D"]:
        return self.encoder(self.token_embedder(tokens), segment_ids, deterministic)

    def _logits(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        if self.config.logits_via_embedding:
            logits = self.token_embedder.attend(x)
        else:
            logits = self.decoder.logits_dense(x)
        return nn.with_logical_constraint(logits, ("batch", "length", "vocab"))

    def __call__(
        self, batch: dict[str, Int[Array, "B _"]], deterministic: bool = True
    ) -> Float[Array, "B Q V"]:
        """Logits of every target position of a batch of model features (see `batches`)."""
        encoder_segments = batch["encoder_segment_ids"]
        decoder_segments = batch["decoder_segment_ids"]
        encoded = self.encode(batch["encoder_input_tokens"], encoder_segments, deterministic)
        x = self.decoder(
            self.token_embedder(batch["decoder_input_tokens"]),
            encoded,
            decoder_segments,
            encoder_segments,
            deterministic,
        )
        return self._logits(x)

    def init_cache(
        self, encoded: Float[Array, "B L D"], max_length: int
    ) -> list[dict[str, Float[Array, "B H _ K"]]]:
        """Empty self-attention caches of `max_length` and the encoder's keys and values."""
        return self.decoder.init_cache(encoded, max_length)

    def decode_step(
        self,
        tokens: Int[Array, " B"],
        index: Int[Array, ""],
        caches: list[dict[str, Float[Array, "B H _ K"]]],
        encoder_mask: Bool[Array, "B L"],
    ) -> tuple[Float[Array, "B V"], list[dict[str, Float[Array, "B H _ K"]]]]:
        """Logits of the token after `tokens`, which stand at position `index`."""
        x = self.token_embedder(tokens[:, None])
        x, caches = self.decoder.step(x, index, caches, encoder_mask)
        return self._logits(x)[:, 0], caches


def _same_segment(queries: Int[Array, "B Q"], keys: Int[Array, "B L"]) -> Bool[Array, "B 1 Q L"]:
    """Segment 0 is padding; padding sees padding, which no loss reads."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]


def parameter_count(config: T5Config) -> int:
    """Number of parameters, from shapes alone."""
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def init_params(config: T5Config, rng: Array) -> dict:
    """Random float32 parameters of a T5; the lengths used here do not enter any shape."""
    token = jnp.ones((1, 8), jnp.int32)
    batch = {
        "encoder_input_tokens": token,
        "encoder_segment_ids": token,
        "decoder_input_tokens": token,
        "decoder_segment_ids": token,
    }
    return Transformer(config).init(rng, batch)["params"]
