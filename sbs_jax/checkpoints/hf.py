"""Hugging Face T5 names and layouts: the parameter tree of `model` from a state dict.

Every Linear is transposed; relative_attention_bias of block 0 is the stack's, transposed; the
embedding is ``shared.weight``. Source: transformers' T5 module names, checked by the trajectories.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sbs_jax.configs import T5Config
from sbs_jax.errors import UserError

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "out"}
_SUBLAYERS = {
    ("encoder", "0"): ("attention", "pre_attention_layer_norm"),
    ("encoder", "1"): ("mlp", "pre_mlp_layer_norm"),
    ("decoder", "0"): ("self_attention", "pre_self_attention_layer_norm"),
    ("decoder", "1"): ("encoder_decoder_attention", "pre_cross_attention_layer_norm"),
    ("decoder", "2"): ("mlp", "pre_mlp_layer_norm"),
}
_BLOCK = re.compile(r"(encoder|decoder)\.block\.(\d+)\.layer\.(\d)\.(\w+)\.(?:(\w+)\.)?weight")


def parameter_path(name: str) -> tuple[str, ...] | None:
    """Our path of a Hugging Face tensor name, or None for a name T5 does not have."""
    match name:
        case "shared.weight":
            return ("token_embedder", "embedding")
        case "lm_head.weight":
            return ("decoder", "logits_dense", "kernel")
        case "encoder.final_layer_norm.weight":
            return ("encoder", "encoder_norm", "scale")
        case "decoder.final_layer_norm.weight":
            return ("decoder", "decoder_norm", "scale")
    found = _BLOCK.fullmatch(name)
    if not found:
        return None
    stack, block, layer, module, part = found.groups()
    if part == "relative_attention_bias":
        return (stack, "relpos_bias", "rel_embedding") if block == "0" else None
    sublayer, norm = _SUBLAYERS[stack, layer]
    if module == "layer_norm":
        return (stack, f"layers_{block}", norm, "scale")
    return (stack, f"layers_{block}", sublayer, _ATTENTION.get(part, part), "kernel")


def from_state_dict(tensors: Mapping[str, np.ndarray]) -> dict:
    """Our nested parameter tree (float32 arrays as given, Linear weights transposed)."""
    params: dict = {}
    for name, tensor in tensors.items():
        path = parameter_path(name)
        if path is None:
            raise KeyError(f"{name} is not a tensor of T5")
        node = params
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = tensor.T if path[-1] in ("kernel", "rel_embedding") else tensor
    return params


def infer_config(params: dict, **overrides: object) -> T5Config:
    """The sizes of a parameter tree; every one can be read off the shapes."""
    encoder, decoder = params["encoder"], params["decoder"]
    vocab_size, emb_dim = params["token_embedder"]["embedding"].shape
    num_heads = encoder["relpos_bias"]["rel_embedding"].shape[0]
    mlp = encoder["layers_0"]["mlp"]
    gated = "wi_0" in mlp
    sizes = {
        "vocab_size": vocab_size,
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "num_encoder_layers": sum(name.startswith("layers_") for name in encoder),
        "num_decoder_layers": sum(name.startswith("layers_") for name in decoder),
        "head_dim": encoder["layers_0"]["attention"]["query"]["kernel"].shape[1] // num_heads,
        "mlp_dim": mlp["wi_0" if gated else "wi"]["kernel"].shape[1],
        "mlp_activations": ("gelu", "linear") if gated else ("relu",),
        "logits_via_embedding": "logits_dense" not in decoder,
    }
    return T5Config(**{**sizes, **overrides})


def load_params(path: Path) -> dict:
    """The float32 parameter tree of a safetensors file with Hugging Face's T5 names."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(path)
        # The two copies of shared.weight that some files carry besides it.
        own = {name: t for name, t in tensors.items() if not name.endswith("embed_tokens.weight")}
        return from_state_dict({name: t.astype(np.float32) for name, t in own.items()})
    except (SafetensorError, KeyError) as error:
        raise UserError(f"{path}: not a T5 checkpoint ({error.args[0]})") from None
