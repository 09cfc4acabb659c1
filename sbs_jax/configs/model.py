"""Sizes of a T5 and how its layers compute."""

import dataclasses
from collections.abc import Sequence

from sbs_jax.configs.validation import BELOW_1, COUNT, Rule, check, one_of, setting

# Of the feed-forward block; `models.layers` holds the functions.
ACTIVATIONS = ("gelu", "relu", "linear")

_DTYPE = Rule(lambda name: name in ("float32", "bfloat16"), "float32 or bfloat16")


def _are_activations(names: Sequence[str]) -> bool:
    return len(names) in (1, 2) and set(names) <= set(ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class T5Config:
    """Sizes of a T5; field names are T5X's ``network.T5Config``.

    Attributes:
        vocab_size: embedding rows V, a multiple of 128 in all public checkpoints.
        mlp_activations: one entry for T5 1.0 (``("relu",)``), two for the gated v1.1 block.
        logits_via_embedding: T5 1.0 ties the logits to the embedding and scales them by D**-0.5.
        dtype: DTYPE of the computation; softmax and logits are always float32.
        param_dtype: PARAM_DTYPE of the matrices between the steps. "bfloat16" halves their memory;
            steps are then rounded stochastically (`training.stochastic_rounding`), optimizer slots
            stay float32.
        remat_policy: REMAT_POLICY, what a layer keeps for the backward pass: "none" keeps all it
            needs, "minimal" the results of its matrix products with parameters, "full" its input
            alone.
        scan_layers: SCAN_LAYERS, compile one layer of a stack and loop over it: deep models
            compile faster and remat and fsdp work layer by layer, at the cost of a copy of the
            layers' parameters in dtype. Without a remat policy the loop keeps every intermediate
            value: faster than with one, but with more memory (docs/performance.md).
    """

    vocab_size: int = setting(rule=COUNT)
    emb_dim: int = setting(rule=COUNT)
    num_heads: int = setting(rule=COUNT)
    num_encoder_layers: int = setting(rule=COUNT)
    num_decoder_layers: int = setting(rule=COUNT)
    head_dim: int = setting(rule=COUNT)
    mlp_dim: int = setting(rule=COUNT)
    mlp_activations: tuple[str, ...] = setting(
        ("gelu", "linear"),
        rule=Rule(_are_activations, f"a tuple of one or two of {', '.join(ACTIVATIONS)}"),
    )
    dropout_rate: float = setting(0.0, macro="DROPOUT_RATE", rule=BELOW_1)
    logits_via_embedding: bool = False
    dtype: str = setting("float32", macro="DTYPE", rule=_DTYPE)
    param_dtype: str = setting("float32", macro="PARAM_DTYPE", rule=_DTYPE)
    remat_policy: str = setting(
        "none", macro="REMAT_POLICY", rule=one_of("none", "minimal", "full")
    )
    scan_layers: bool = setting(False, macro="SCAN_LAYERS")

    def __post_init__(self) -> None:
        check(self)
