"""The public models' own config.json, with weights of their shapes: read as what they are.

The numbers are not there (the files are holes): names, shapes and settings decide what a model is.
"""

import json
import pathlib
import struct

import pytest

from sbs_jax.checkpoints.formats import hf, hf_write, params
from sbs_jax.configs import T5Config
from sbs_jax.errors import UserError

# As published; fields that say nothing about the model are left out.
COMMON = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "is_encoder_decoder": True,
    "dropout_rate": 0.1,
    "initializer_factor": 1.0,
    "layer_norm_epsilon": 1e-06,
    "relative_attention_num_buckets": 32,
    "d_kv": 64,
    "use_cache": True,
}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
V1_1 = {
    **COMMON,
    **GATED,
    "d_model": 512,
    "d_ff": 1024,
    "num_heads": 6,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "output_past": True,
    "vocab_size": 32128,
}
PUBLIC = {
    "t5-small": {
        **COMMON,
        "architectures": ["T5WithLMHeadModel"],
        "d_model": 512,
        "d_ff": 2048,
        "num_heads": 8,
        "num_layers": 6,
        "n_positions": 512,
        "output_past": True,
        "task_specific_params": {"summarization": {"prefix": "summarize: ", "num_beams": 4}},
        "vocab_size": 32128,
    },
    "t5-v1_1-small": V1_1,
    "flan-t5-small": {
        **V1_1,
        "n_positions": 512,
        "relative_attention_max_distance": 128,
        "task_specific_params": {"summarization": {"prefix": "summarize: ", "num_beams": 4}},
    },
    "mt5-small": {
        **V1_1,
        "architectures": ["MT5ForConditionalGeneration"],
        "model_type": "mt5",
        "tokenizer_class": "T5Tokenizer",
        "vocab_size": 250112,
    },
    "byt5-small": {
        **COMMON,
        **GATED,
        "d_model": 1472,
        "d_ff": 3584,
        "num_heads": 6,
        "num_layers": 12,
        "num_decoder_layers": 4,
        "gradient_checkpointing": False,
        "tokenizer_class": "ByT5Tokenizer",
        "vocab_size": 384,
    },
}
# transformers 5 saves T5 v1.1 like this: tied by name, untied by how its logits are made.
SAVED_AGAIN = {
    **V1_1,
    "tie_word_embeddings": True,
    "scale_decoder_outputs": False,
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "transformers_version": "5.23.0",
}
PARAMETERS = {
    "t5-small": 60_506_624,
    "t5-v1_1-small": 76_961_152,
    "flan-t5-small": 76_961_152,
    "mt5-small": 300_176_768,
    "byt5-small": 299_637_760,
}


def model(settings: dict) -> T5Config:
    gated = settings.get("feed_forward_proj") == "gated-gelu"
    return T5Config(
        vocab_size=settings["vocab_size"],
        emb_dim=settings["d_model"],
        num_heads=settings["num_heads"],
        num_encoder_layers=settings["num_layers"],
        num_decoder_layers=settings.get("num_decoder_layers", settings["num_layers"]),
        head_dim=settings["d_kv"],
        mlp_dim=settings["d_ff"],
        mlp_activations=("gelu", "linear") if gated else ("relu",),
        dropout_rate=0.1,
        logits_via_embedding=not gated,
    )


def write(folder: pathlib.Path, settings: dict) -> None:
    """config.json, and safetensors whose numbers are one hole."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    config, header, end = model(settings), {}, 0
    shapes = params.shapes_of(config)
    for ours, theirs in hf.tensor_names(config).items():
        shape = shapes[ours]
        if ours.endswith(("/kernel", "/rel_embedding")):
            shape = shape[::-1]
        begin, end = end, end + 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[theirs] = {"dtype": "F32", "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_model_is_read_as_what_it_is(tmp_path, name):
    write(tmp_path / name, PUBLIC[name])
    found = hf.read(str(tmp_path / name))
    assert found.config == model(PUBLIC[name])
    assert found.size == PARAMETERS[name]
    assert found.vocabulary == ("bytes" if name == "byt5-small" else None)


def test_a_model_that_transformers_5_saved_again_stays_untied(tmp_path):
    write(tmp_path / "model", SAVED_AGAIN)
    assert hf.read(str(tmp_path / "model")).config == model(V1_1)


def test_umt5_is_refused_with_the_reason(tmp_path):
    umt5 = {**V1_1, "architectures": ["UMT5ForConditionalGeneration"], "model_type": "umt5"}
    write(tmp_path / "model", {**umt5, "vocab_size": 256384, "tie_word_embeddings": True})
    with pytest.raises(UserError, match="umT5 has a table of relative positions in every layer"):
        hf.read(str(tmp_path / "model"))


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_written_tells_the_same_model(name):
    """Every field that both name is the public file's."""
    written = hf_write._config(params.Checkpoint("made", "", {}, model(PUBLIC[name])))
    own = {"architectures", "model_type", "tokenizer_class"}
    for field in (written.keys() & PUBLIC[name].keys()) - own:
        assert written[field] == PUBLIC[name][field], field
