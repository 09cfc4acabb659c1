"""T5 in Flax linen, with T5X's parameter names so that public T5X checkpoints load by name.

One architecture serves T5 v1.1, Flan-T5, mT5 and ByT5 (gated GELU, untied logits) and T5 1.0 (ReLU,
logits from the embedding). Shapes use the letters of `layers`. Attention never mixes segments:
packed rows mean the same as padded ones.

With ``scan_layers`` a stack is one compiled layer in a loop, not N copies of it. The parameters
keep T5X's names all the same, one array per layer: they are stacked inside the step, which costs
a copy of them in the computation's dtype, and leaves optimizer and checkpoints as they are.

Sources: Raffel et al. 2020 (arXiv 1910.10683) section 2.1; names as in T5X's
``examples/t5/network.py``; checked against Hugging Face's T5 by tests/training/test_parity.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from sbs_jax.configs import T5Config
from sbs_jax.models.layers import (
    Attention,
    LogitsDense,
    MlpBlock,
    RelativePositionBias,
    RMSNorm,
    SequenceDropout,
    TokenEmbedder,
)

_MASKED = -1e10  # T5X's value; finite, so that a row of padding stays free of NaN

# What a layer keeps for the backward pass besides its input; T5X's names of the policies.
_REMAT_POLICIES = {
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def _remat(layer: type[nn.Module], config: T5Config, static_argnum: int) -> type[nn.Module]:
    """The layer class under the configured policy; `deterministic` is its static argument."""
    if config.remat_policy == "none":
        return layer
    policy = _REMAT_POLICIES[config.remat_policy]
    return nn.remat(
        layer,
        policy=policy,
        prevent_cse=not config.scan_layers,  # a loop's body has nothing to merge with
        static_argnums=(static_argnum,),
    )


def _scan(
    stack: nn.Module, layer: nn.Module, count: int, x: Float[Array, "B L D"], *inputs: Any
) -> Float[Array, "B L D"]:
    """What `count` layers of a stack make of x, as a loop over their stacked parameters.

    Args:
        layer: unbound; the parameters are those of ``layers_0``, ``layers_1``, ... in `stack`.
        inputs: what every layer is called with after x.
    """
    params = stack.variables["params"]
    dtype = stack.config.dtype

    def stacked(*leaves: Float[Array, "..."]) -> Float[Array, "N ..."]:
        # Matrices are cast as their layer would cast them, so that the copy is no larger.
        return jnp.stack([leaf.astype(dtype) if leaf.ndim > 1 else leaf for leaf in leaves])

    layers = jax.tree.map(stacked, *(params[f"layers_{i}"] for i in range(count)))
    keys = None
    if stack.has_rng("dropout"):
        keys = jax.random.split(stack.make_rng("dropout"), count)

    def body(x: Float[Array, "B L D"], item: tuple) -> tuple[Float[Array, "B L D"], None]:
        params, key = item
        rngs = None if key is None else {"dropout": key}
        return layer.apply({"params": params}, x, *inputs, rngs=rngs), None

    return jax.lax.scan(body, x, (layers, keys))[0]


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
        x: Float[Array, "B Q D"],
        index: Int[Array, ""],
        cache: dict[str, Float[Array, "B H _ K"]],
        self_bias: Float[Array, "1 H Q T"],
        cross_bias: Float[Array, "B 1 Q L"],
    ) -> tuple[Float[Array, "B Q D"], dict[str, Float[Array, "B H _ K"]]]:
        """New positions: writes their keys and values from `index` on and attends by the bias."""
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
        layer = _remat(EncoderLayer, cfg, static_argnum=4)
        x = dropout(x, segment_ids, deterministic)
        if cfg.scan_layers and not self.is_initializing():
            one = layer(cfg, self.segments, parent=None)
            x = _scan(self, one, cfg.num_encoder_layers, x, bias, segment_ids, deterministic)
        else:
            for i in range(cfg.num_encoder_layers):
                one = layer(cfg, self.segments, name=f"layers_{i}")
                x = one(x, bias, segment_ids, deterministic)
        return dropout(RMSNorm(cfg, name="encoder_norm")(x), segment_ids, deterministic)


class Decoder(nn.Module):
    """The decoder stack, for whole sequences (training) or position by position (decoding)."""

    config: T5Config
    segments: int

    def setup(self) -> None:
        cfg = self.config
        layer = _remat(DecoderLayer, cfg, static_argnum=6)
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
        inputs = (encoded, self_bias, cross_bias, segment_ids, deterministic)
        if self.config.scan_layers and not self.is_initializing():
            layer = self.layers[0].clone(parent=None, name=None)
            x = _scan(self, layer, len(self.layers), x, *inputs)
        else:
            for layer in self.layers:
                x = layer(x, *inputs)
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

    def tree(
        self,
        x: Float[Array, "B N D"],
        depths: Int[Array, " N"],
        sees: Bool[Array, "N N"],
        caches: list[dict[str, Float[Array, "B H _ K"]]],
        encoder_mask: Bool[Array, "B L"],
    ) -> Float[Array, "B N D"]:
        """Positions of a tree in one pass: each at its depth, attending where `sees` is True."""
        longest = depths.shape[0]  # no node is deeper
        bias = self.relpos_bias(longest, longest)[:, :, depths[:, None], depths[None, :]]
        self_bias = jnp.where(sees[None, None], bias, _MASKED)
        cross_bias = jnp.where(encoder_mask[:, None, None, :], 0.0, _MASKED)
        cross_bias = jnp.repeat(cross_bias, longest, axis=2)
        for layer, cache in zip(self.layers, caches, strict=True):
            x, _ = layer.step(x, jnp.zeros((), jnp.int32), cache, self_bias, cross_bias)
        return self.decoder_norm(x)


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

    def tree_states(
        self,
        tokens: Int[Array, " N"],
        depths: Int[Array, " N"],
        sees: Bool[Array, "N N"],
        caches: list[dict[str, Float[Array, "B H _ K"]]],
        encoder_mask: Bool[Array, "B L"],
    ) -> Float[Array, "B N D"]:
        """What `logits_of` takes, at every node of a tree of tokens that all rows share.

        Args:
            tokens: input at each node.
            depths: position of each node.
            sees: whether a node (row) attends to another (column).
            caches: of `init_cache` with N positions.
            encoder_mask: True on tokens of the input.
        """
        x = self.token_embedder(jnp.broadcast_to(tokens, (encoder_mask.shape[0], tokens.shape[0])))
        return self.decoder.tree(x, depths, sees, caches, encoder_mask)

    def logits_of(self, states: Float[Array, "B N D"]) -> Float[Array, "B N V"]:
        """Logits of the token after each position."""
        return self._logits(states)


def _same_segment(queries: Int[Array, "B Q"], keys: Int[Array, "B L"]) -> Bool[Array, "B 1 Q L"]:
    """Segment 0 is padding; padding sees padding, which no loss reads."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]


def parameter_count(config: T5Config) -> int:
    """Number of parameters, from shapes alone."""
    shapes = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def init_params(config: T5Config, rng: Array) -> dict:
    """Random parameters of a T5 in its param_dtype; the lengths used here enter no shape."""
    token = jnp.ones((1, 8), jnp.int32)
    batch = {
        "encoder_input_tokens": token,
        "encoder_segment_ids": token,
        "decoder_input_tokens": token,
        "decoder_segment_ids": token,
    }
    return Transformer(config).init(rng, batch)["params"]
