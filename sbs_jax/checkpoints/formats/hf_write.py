"""Writes Hugging Face's T5 folders: config.json, generation_config.json, safetensors, tokenizer.

Names and layout are those of `hf`. ``transformers`` loads the folder as
``AutoModelForSeq2SeqLM``; an untied model carries both shared.weight and lm_head.weight, without
which transformers 5 would silently tie them.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sbs_jax.checkpoints.formats import hf_tokenizer
from sbs_jax.checkpoints.formats.hf import CONFIG, INDEX, LM_HEAD, WEIGHTS, tensor_names
from sbs_jax.checkpoints.formats.params import Checkpoint, LazyArray
from sbs_jax.configs import T5Config
from sbs_jax.errors import UserError

GENERATION = "generation_config.json"
SHARD_BYTES = 5 * 10**9  # transformers' own limit for many years


def write(
    folder: Path,
    checkpoint: Checkpoint,
    shard_bytes: int = SHARD_BYTES,
    generation: Mapping[str, object] | None = None,
    input_length: int | None = None,
) -> None:
    """Writes the folder; holds one tensor in memory at a time.

    Args:
        folder: is created.
        shard_bytes: a file with more of it is followed by another one.
        generation: settings for generation_config.json, e.g. ``max_new_tokens``.
        input_length: where the tokenizer truncates on request, EOS kept.

    Raises:
        UserError: an activation that Hugging Face's T5 cannot name, or a vocabulary that cannot
            be found.
    """
    settings = _config(checkpoint)
    folder.mkdir(parents=True)
    _write_json(folder / CONFIG, settings)
    tokens = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    _write_json(folder / GENERATION, {**tokens, **(generation or {})})
    _write_weights(folder, checkpoint, shard_bytes)
    if checkpoint.vocabulary is not None:
        hf_tokenizer.write(folder, checkpoint.vocabulary, input_length)


def _config(checkpoint: Checkpoint) -> dict:
    config = checkpoint.config
    tokenizer = "ByT5Tokenizer" if checkpoint.vocabulary == "bytes" else "T5Tokenizer"
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "tokenizer_class": tokenizer,
        "is_encoder_decoder": True,
        "d_model": config.emb_dim,
        "d_kv": config.head_dim,
        "d_ff": config.mlp_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "feed_forward_proj": _activation(config),
        "tie_word_embeddings": config.logits_via_embedding,
        "vocab_size": config.vocab_size,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": config.dropout_rate,
        "initializer_factor": 1.0,
        "use_cache": True,
        "dtype": "float32",
    }


def _activation(config: T5Config) -> str:
    known = {("gelu", "linear"): "gated-gelu", ("relu",): "relu"}
    if config.mlp_activations not in known:
        raise UserError(
            f"mlp_activations = {config.mlp_activations}: Hugging Face's T5 has only "
            "('gelu', 'linear') and ('relu',)"
        )
    return known[config.mlp_activations]


def _write_weights(folder: Path, checkpoint: Checkpoint, shard_bytes: int) -> None:
    tensors = {
        theirs: (checkpoint.params[ours], ours)
        for ours, theirs in tensor_names(checkpoint.config).items()
    }
    assert checkpoint.config.logits_via_embedding or LM_HEAD in tensors
    shards: list[dict[str, LazyArray]] = [{}]
    for name, (array, ours) in tensors.items():
        held = sum(tensor.nbytes for tensor in shards[-1].values())
        if shards[-1] and held + array.nbytes > shard_bytes:
            shards.append({})
        shards[-1][name] = _in_their_order(array, ours)
    if len(shards) == 1:
        write_safetensors(folder / WEIGHTS, shards[0])
        return
    files: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / file, shard)
        files |= dict.fromkeys(shard, file)
    total = sum(array.nbytes for array, _ in tensors.values())
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": files})


def _in_their_order(array: LazyArray, ours: str) -> LazyArray:
    if not ours.endswith(("/kernel", "/rel_embedding")):
        return array
    return LazyArray(array.shape[::-1], array.dtype, lambda: array.read().T)


def write_safetensors(path: Path, tensors: Mapping[str, LazyArray]) -> None:
    """The safetensors format: length of the header, JSON header, the numbers one after another.

    The safetensors library writes only what is in memory as a whole; a shard here need not be.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)))
        file.write(text)
        for tensor in tensors.values():
            data = np.ascontiguousarray(tensor.read(), dtype="<f4")
            assert data.shape == tensor.shape
            file.write(data.data)


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
