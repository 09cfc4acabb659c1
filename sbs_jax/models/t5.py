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

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, UInt16

from sbs_jax.configs import T5Config
from sbs_jax.models.layers import (
    MASKED,
    Attention,
    LogitsDense,
    MlpBlock,
    Noise,
    RelativePositionBias,
    RMSNorm,
    TokenEmbedder,
    masked_bias,
)
from sbs_jax.models.stacks import draw_bits, remat, run_layers


class _Layer(nn.Module):
    """What both kinds of layer have.

    Attributes:
        max_segments: sequences of a packed row that get their own dropout masks.
        fused_attention: see `Attention.fused`.
    """

    config: T5Config
    max_segments: int
    fused_attention: bool = False

    def noise(
        self, bits: UInt16[Array, "B n"] | None, segment_ids: Int[Array, "B L"]
    ) -> Noise | None:
        if bits is None:
            return None
        return Noise(bits, self.config.dropout_rate, self.max_segments, segment_ids)


def _dropped(x: Float[Array, "B L D"], noise: Noise | None) -> Float[Array, "B L D"]:
    return x if noise is None else noise.sequences(x)


class EncoderLayer(_Layer):
    """Self-attention and feed-forward, each normalised before and added to its input."""

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L D"],
        bits: UInt16[Array, "B n"] | None,
        bias: Float[Array, "B H L L"],
        segment_ids: Int[Array, "B L"],
    ) -> Float[Array, "B L D"]:
        cfg, noise = self.config, self.noise(bits, segment_ids)
        y = RMSNorm(cfg, name="pre_attention_layer_norm")(x)
        y = Attention(cfg, self.fused_attention, name="attention")(y, y, bias, noise)
        x = x + _dropped(y, noise)
        y = RMSNorm(cfg, name="pre_mlp_layer_norm")(x)
        x = x + _dropped(MlpBlock(cfg, name="mlp")(y, noise), noise)
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))


class DecoderLayer(_Layer):
    """Causal self-attention, attention to the encoder, feed-forward.

    Training passes whole sequences; decoding passes one position and a cache of the keys and
    values of the positions before it.
    """

    def setup(self) -> None:
        cfg, fused = self.config, self.fused_attention
        self.pre_self_attention_layer_norm = RMSNorm(cfg)
        self.self_attention = Attention(cfg, fused)
        self.pre_cross_attention_layer_norm = RMSNorm(cfg)
        self.encoder_decoder_attention = Attention(cfg, fused)
        self.pre_mlp_layer_norm = RMSNorm(cfg)
        self.mlp = MlpBlock(cfg)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        bits: UInt16[Array, "B n"] | None,
        encoded: Float[Array, "B L D"],
        self_bias: Float[Array, "B H Q Q"],
        cross_bias: Float[Array, "B 1 Q L"],
        segment_ids: Int[Array, "B Q"],
    ) -> Float[Array, "B Q D"]:
        noise = self.noise(bits, segment_ids)
        y = self.pre_self_attention_layer_norm(x)
        x = x + _dropped(self.self_attention(y, y, self_bias, noise), noise)
        y = self.pre_cross_attention_layer_norm(x)
        y = self.encoder_decoder_attention(y, encoded, cross_bias, noise)
        x = x + _dropped(y, noise)
        x = x + _dropped(self.mlp(self.pre_mlp_layer_norm(x), noise), noise)
        return nn.with_logical_constraint(x, ("batch", "length", "embed"))

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
        x = x + self.self_attention.cached(y, cache["key"], cache["value"], self_bias)
        y = self.pre_cross_attention_layer_norm(x)
        keys, values = cache["encoder_key"], cache["encoder_value"]
        x = x + self.encoder_decoder_attention.cached(y, keys, values, cross_bias)
        return x + self.mlp(self.pre_mlp_layer_norm(x), None), cache


class Encoder(nn.Module):
    """The encoder stack; `relpos_bias` is shared by its layers."""

    config: T5Config
    max_segments: int
    fused_attention: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], segment_ids: Int[Array, "B L"], deterministic: bool
    ) -> Float[Array, "B L D"]:
        cfg, length = self.config, x.shape[1]
        bias = RelativePositionBias(cfg, bidirectional=True, name="relpos_bias")(length, length)
        bias = _bias_for(self, bias, _same_segment(segment_ids, segment_ids))
        bits, around = draw_bits(self, deterministic, cfg.num_encoder_layers, x.shape[0], 2, length)
        noise = (
            around
            if around is None
            else Noise(around, cfg.dropout_rate, self.max_segments, segment_ids)
        )
        x = _dropped(x, noise)
        layer = remat(EncoderLayer, cfg)
        if self.is_initializing():
            for i in range(cfg.num_encoder_layers):
                x = layer(cfg, self.max_segments, name=f"layers_{i}")(x, None, bias, segment_ids)
        else:
            one = layer(cfg, self.max_segments, self.fused_attention, parent=None)
            x = run_layers(self, one, cfg.num_encoder_layers, x, bits, bias, segment_ids)
        return _dropped(RMSNorm(cfg, name="encoder_norm")(x), noise)


class Decoder(nn.Module):
    """The decoder stack, for whole sequences (training) or position by position (decoding)."""

    config: T5Config
    max_segments: int
    fused_attention: bool = False

    def setup(self) -> None:
        cfg = self.config
        layer = remat(DecoderLayer, cfg)
        self.relpos_bias = RelativePositionBias(cfg, bidirectional=False)
        self.layers = [
            layer(cfg, self.max_segments, self.fused_attention)
            for _ in range(cfg.num_decoder_layers)
        ]
        self.decoder_norm = RMSNorm(cfg)
        if not cfg.logits_via_embedding:
            self.logits_dense = LogitsDense(cfg)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        encoded: Float[Array, "B L D"],
        segment_ids: Int[Array, "B Q"],
        source_ids: Int[Array, "B Q"],
        encoder_segment_ids: Int[Array, "B L"],
        deterministic: bool,
    ) -> Float[Array, "B Q D"]:
        cfg, length = self.config, x.shape[1]
        causal = jnp.tril(jnp.ones((length, length), bool))[None, None]
        self_mask = _same_segment(segment_ids, segment_ids) & causal
        self_bias = _bias_for(self, self.relpos_bias(length, length), self_mask)
        cross_mask = _same_segment(source_ids, encoder_segment_ids)
        cross_bias = _bias_for(self, jnp.zeros((1, 1, 1, 1)), cross_mask)
        bits, around = draw_bits(
            self, deterministic, len(self.layers), x.shape[0], 3, length, encoded.shape[1]
        )
        noise = (
            around
            if around is None
            else Noise(around, cfg.dropout_rate, self.max_segments, segment_ids)
        )
        x = _dropped(x, noise)
        inputs = (encoded, self_bias, cross_bias, segment_ids)
        if self.is_initializing():
            for layer in self.layers:
                x = layer(x, None, *inputs)
        else:
            one = self.layers[0].clone(parent=None, name=None)
            x = run_layers(self, one, len(self.layers), x, bits, *inputs)
        return _dropped(self.decoder_norm(x), noise)

    def encoder_keys_values(
        self, encoded: Float[Array, "B L D"]
    ) -> list[tuple[Float[Array, "B H L K"], Float[Array, "B H L K"]]]:
        return [layer.encoder_keys_values(encoded) for layer in self.layers]

    def step(
        self,
        x: Float[Array, "B 1 D"],
        index: Int[Array, ""],
        caches: list[dict[str, Float[Array, "B H _ K"]]],
        encoder_mask: Bool[Array, "B L"],
    ) -> tuple[Float[Array, "B 1 D"], list[dict[str, Float[Array, "B H _ K"]]]]:
        max_length = caches[0]["key"].shape[2]
        past = jnp.arange(max_length) <= index
        bias = self.relpos_bias.of_last(index, max_length)
        self_bias = jnp.where(past[None, None, None, :], bias, MASKED)
        cross_bias = jnp.where(encoder_mask[:, None, None, :], 0.0, MASKED)
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
        self_bias = jnp.where(sees[None, None], bias, MASKED)
        cross_bias = jnp.where(encoder_mask[:, None, None, :], 0.0, MASKED)
        cross_bias = jnp.repeat(cross_bias, longest, axis=2)
        for layer, cache in zip(self.layers, caches, strict=True):
            x, _ = layer.step(x, jnp.zeros((), jnp.int32), cache, self_bias, cross_bias)
        return self.decoder_norm(x)


class Transformer(nn.Module):
    """The encoder-decoder; parameter tree as in T5X: token_embedder, encoder, decoder.

    Attributes:
        max_segments: most sequences of a packed row that get their own dropout masks.
        fused_attention: use cuDNN's attention; needs a CUDA device, bfloat16 and even lengths.
    """

    config: T5Config
    max_segments: int = 1
    fused_attention: bool = False

    def setup(self) -> None:
        settings = (self.config, self.max_segments, self.fused_attention)
        self.token_embedder = TokenEmbedder(self.config)
        self.encoder = Encoder(*settings)
        self.decoder = Decoder(*settings)

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
        """Logits of every target position of a batch of model features (see `packing.fill`).

        A decoder segment reads the encoder segment of its number, or of decoder_source_ids.
        """
        encoder_segments = batch["encoder_segment_ids"]
        decoder_segments = batch["decoder_segment_ids"]
        encoded = self.encode(batch["encoder_input_tokens"], encoder_segments, deterministic)
        x = self.decoder(
            self.token_embedder(batch["decoder_input_tokens"]),
            encoded,
            decoder_segments,
            batch.get("decoder_source_ids", decoder_segments),
            encoder_segments,
            deterministic,
        )
        return self._logits(x)

    def encoder_keys_values(
        self, encoded: Float[Array, "B L D"]
    ) -> list[tuple[Float[Array, "B H L K"], Float[Array, "B H L K"]]]:
        """What each layer of the decoder attends to, from the output of `encode`."""
        return self.decoder.encoder_keys_values(encoded)

    def decode_step(
        self,
        tokens: Int[Array, " B"],
        index: Int[Array, ""],
        caches: list[dict[str, Float[Array, "B H _ K"]]],
        encoder_mask: Bool[Array, "B L"],
    ) -> tuple[Float[Array, "B V"], list[dict[str, Float[Array, "B H _ K"]]]]:
        """Logits of the token after `tokens`, which are at position `index`."""
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
            caches: one of each layer: "key" and "value" with N positions, to be written, and
                "encoder_key" and "encoder_value" (`encoder_keys_values`).
            encoder_mask: True on tokens of the input.
        """
        x = self.token_embedder(jnp.broadcast_to(tokens, (encoder_mask.shape[0], tokens.shape[0])))
        return self.decoder.tree(x, depths, sees, caches, encoder_mask)

    def logits_of(self, states: Float[Array, "B N D"]) -> Float[Array, "B N V"]:
        """Logits of the token after each position."""
        return self._logits(states)


def _bias_for(
    stack: nn.Module, bias: Float[Array, "1 #H #Q #L"], mask: Bool[Array, "B 1 Q L"]
) -> Float[Array, "B #H Q L"]:
    """A stack's one bias for all its layers, in the dtype its attention takes."""
    bias = jnp.broadcast_to(bias, (*bias.shape[:2], *mask.shape[2:]))
    return masked_bias(bias.astype(stack.config.dtype) if stack.fused_attention else bias, mask)


def _same_segment(queries: Int[Array, "B Q"], keys: Int[Array, "B L"]) -> Bool[Array, "B 1 Q L"]:
    """Segment 0 is padding; padding sees padding, which no loss reads."""
    return (queries[:, :, None] == keys[:, None, :])[:, None]


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
