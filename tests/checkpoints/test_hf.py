"""Hugging Face folders: read, refused with a reason, written; loaded by transformers itself."""

import json
import pathlib

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from helpers import made_checkpoints as made
from helpers import transformers_python
from safetensors.numpy import load_file, save_file

from sbs_jax.checkpoints import convert
from sbs_jax.checkpoints.formats import hf, hf_write
from sbs_jax.checkpoints.formats.params import read_all
from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.models.decoding import greedy
from sbs_jax.models.t5 import Transformer
from sbs_jax.utils import paths


@pytest.fixture
def folder(tmp_path):
    hf_write.write(tmp_path / "model", made.checkpoint())
    return tmp_path / "model"


def edit_config(folder, **changes):
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in settings.items() if v is not ...}))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("config", [made.UNTIED, made.TIED], ids=["untied", "tied"])
def test_what_is_written_is_read_back(tmp_path, config):
    source = made.checkpoint(config)
    hf_write.write(tmp_path / "model", source)
    found = hf.read(str(tmp_path / "model"))
    made.assert_same_params(found.params, source.params)
    assert found.config == config


def test_the_originals_weights_come_out_as_they_were(shared, tmp_path):
    vector = shared / "vectors" / "init_micro.safetensors"
    hf_write.write(tmp_path / "model", hf.read(str(vector)))
    before, after = load_file(vector), load_file(tmp_path / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        np.testing.assert_array_equal(after[name], tensor)


def test_the_folder_says_what_the_model_is(folder):
    settings = json.loads((folder / "config.json").read_text())
    expected = {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_decoder_layers": 1,
        "num_heads": 2,
        "vocab_size": 384,
        "decoder_start_token_id": 0,
        "dropout_rate": 0.1,
    }
    assert settings | expected == settings
    tensors = load_file(folder / "model.safetensors")
    assert {"shared.weight", "lm_head.weight"} <= tensors.keys()
    generation = json.loads((folder / "generation_config.json").read_text())
    assert generation == {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def test_shards_hold_every_tensor_once(tmp_path):
    source = made.checkpoint()
    hf_write.write(tmp_path / "model", source, shard_bytes=20_000)
    shards = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(shards) > 3
    index = json.loads((tmp_path / "model" / "model.safetensors.index.json").read_text())
    held = {name: shard.name for shard in shards for name in load_file(shard)}
    assert index["weight_map"] == held
    assert index["metadata"]["total_size"] == 4 * source.size
    assert len(held) == len(source.params)
    made.assert_same_params(hf.read(str(tmp_path / "model")).params, source.params)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_exactly(folder, dtype):
    edit_tensors(folder, lambda t: t.update({k: v.astype(dtype) for k, v in t.items()}))
    found = hf.read(str(folder)).params
    for name, array in made.checkpoint().params.items():
        expected = array.read().astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(found[name].read(), expected)


def test_copies_and_the_unused_table_of_old_files_are_left(folder):
    def add(tensors):
        for stack in ("encoder", "decoder"):
            tensors[f"{stack}.embed_tokens.weight"] = tensors["shared.weight"].copy()
        table = np.zeros((32, 2), np.float32)
        name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        tensors[name] = table

    edit_tensors(folder, add)
    made.assert_same_params(hf.read(str(folder)).params, made.checkpoint().params)
    edit_tensors(folder, lambda t: t.pop("shared.weight"))
    made.assert_same_params(hf.read(str(folder)).params, made.checkpoint().params)
    edit_tensors(folder, lambda t: t["decoder.embed_tokens.weight"].fill(1))
    with pytest.raises(UserError, match=r"differs from shared\.weight"):
        hf.read(str(folder))


@pytest.mark.parametrize(
    ("settings", "lm_head", "expected"),
    [
        ({"tie_word_embeddings": False}, "own", "own"),
        ({"tie_word_embeddings": True}, None, "tied"),
        ({"tie_word_embeddings": ...}, None, "tied"),  # T5 1.0's files do not say
        ({"tie_word_embeddings": True}, "shared", "tied"),
        # transformers 5 says true of every T5, and tells those of v1.1 by another field.
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, "own", "own"),
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, None, "shared"),
        ({"tie_word_embeddings": True, "model_type": "mt5"}, "own", "own"),
        ({"tie_word_embeddings": True}, "own", "but lm_head.weight differs"),
        ({"tie_word_embeddings": False}, None, "lm_head.weight is missing"),
    ],
)
def test_how_logits_are_made(folder, settings, lm_head, expected):
    edit_config(folder, **settings)

    def change(tensors):
        if lm_head is None:
            del tensors["lm_head.weight"]
        elif lm_head == "shared":
            tensors["lm_head.weight"] = tensors["shared.weight"].copy()

    edit_tensors(folder, change)
    if expected not in ("own", "shared", "tied"):
        with pytest.raises(UserError, match=expected):
            hf.read(str(folder))
        return
    found = hf.read(str(folder))
    assert found.config.logits_via_embedding == (expected == "tied")
    if expected != "tied":
        name = "decoder/logits_dense/kernel" if expected == "own" else "token_embedder/embedding"
        wanted = made.checkpoint().params[name].read()
        kernel = found.params["decoder/logits_dense/kernel"].read()
        np.testing.assert_array_equal(kernel, wanted if expected == "own" else wanted.T)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "umt5"}, "umT5 has a table of relative positions in every layer"),
        ({"model_type": "llama"}, "model_type is 'llama'; only t5 and mt5"),
        ({"model_type": "longt5"}, "model_type is 'longt5'"),
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj does not fit the tensors"),
        ({"relative_attention_num_buckets": 64}, "relative_attention_num_buckets is 64"),
        ({"relative_attention_max_distance": 256}, "relative_attention_max_distance is 256"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05"),
        ({"decoder_start_token_id": 5}, "decoder_start_token_id is 5"),
        ({"quantization_config": {"bits": 8}}, "a quantised model"),
        ({"d_model": 32}, "d_model is 32, the tensors have 16"),
        ({"num_heads": 4}, "num_heads is 4, the tensors have 2"),
        ({"num_layers": 3}, "num_layers is 3, the tensors have 2"),
    ],
)
def test_other_models_are_refused_with_the_reason(folder, settings, reason):
    edit_config(folder, **settings)
    with pytest.raises(UserError, match=reason):
        hf.read(str(folder))


def test_byt5_names_its_vocabulary(folder, tmp_path):
    edit_config(folder, tokenizer_class="ByT5Tokenizer")
    found = hf.read(str(folder))
    assert found.vocabulary == "bytes"
    hf_write.write(tmp_path / "again", found)
    settings = json.loads((tmp_path / "again" / "config.json").read_text())
    assert settings["tokenizer_class"] == "ByT5Tokenizer"


def test_the_vocabularys_file_goes_along_if_hugging_face_can_use_it(tmp_path):
    """T5's tokenizer class adds 100 extra ids itself; a model that holds them would get 200."""
    demo = paths.asset("demo.model")
    own_extra_ids = vocabularies.missing_extra_ids(demo.read_bytes()) == 0
    hf_write.write(tmp_path / "model", made.checkpoint(vocabulary=str(demo)))
    assert (tmp_path / "model" / "spiece.model").exists() != own_extra_ids
    if not own_extra_ids:
        assert (tmp_path / "model" / "spiece.model").read_bytes() == demo.read_bytes()
        assert hf.read(str(tmp_path / "model")).vocabulary.endswith("spiece.model")


def cut_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def cut_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50])


def absurd_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:])


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text("[")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def _index(folder, file):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "outside.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def shard_outside(folder):
    _index(folder, "../outside.safetensors")


def shard_missing(folder):
    _index(folder, "model-00001-of-00001.safetensors")


def missing_tensor(folder):
    edit_tensors(folder, lambda t: t.pop("encoder.final_layer_norm.weight"))


def unknown_tensor(folder):
    edit_tensors(folder, lambda t: t.update(classifier=np.zeros(3, np.float32)))


def other_shape(folder):
    name = "encoder.final_layer_norm.weight"
    edit_tensors(folder, lambda t: t.update({name: np.zeros(3, np.float32)}))


def not_a_t5(folder):
    (folder / "model.safetensors").unlink()
    save_file({"w": np.zeros(3, np.float32)}, folder / "model.safetensors")


def integers(folder):
    name = "encoder.final_layer_norm.weight"
    edit_tensors(folder, lambda t: t.update({name: np.zeros(16, np.int8)}))


DAMAGES = {
    cut_file: "model.safetensors: damaged or cut short",
    cut_header: "model.safetensors: damaged or cut short",
    absurd_header: "model.safetensors: damaged or cut short",
    no_config: "no config.json",
    broken_config: "config.json: cannot be read as JSON",
    no_weights: "no model.safetensors",
    shard_outside: "weight_map must name files of this folder",
    shard_missing: "model-00001-of-00001.safetensors: missing",
    missing_tensor: r"1 missing \(encoder/encoder_norm/scale\)",
    unknown_tensor: r"1 unknown \(classifier\)",
    other_shape: r"encoder/encoder_norm/scale is \[3\] there and \[16\]",
    not_a_t5: "not the parameters of a T5",
    integers: "encoder.final_layer_norm.weight is I8",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_one_clear_error_and_nothing_is_written(folder, tmp_path, damage):
    damage(folder)
    there = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=DAMAGES[damage]) as raised:
        convert.convert(str(folder), str(tmp_path / "out"), "t5x", from_kind="hf")
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == there


# What transformers makes of our folders.

SCRIPT = """
import sys, json, torch, numpy
from transformers import AutoModelForSeq2SeqLM
folder, inputs, out = sys.argv[1:]
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
tokens = torch.tensor(json.load(open(inputs)))
mask = (tokens != 0).long()
with torch.no_grad():
    decoder = torch.zeros_like(tokens[:, :1])
    decoder = torch.cat([decoder, tokens[:, :5]], dim=1)
    logits = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=decoder).logits
    ids = model.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=20, do_sample=False)
numpy.savez(out, logits=logits.numpy(), ids=ids.numpy())
model.save_pretrained(folder + "_again")
"""


@pytest.fixture(scope="module")
def transformers():
    transformers_python.require()

    def load(folder: pathlib.Path, tokens: np.ndarray) -> dict:
        inputs, out = folder.parent / "inputs.json", folder.parent / "out.npz"
        inputs.write_text(json.dumps(tokens.tolist()))
        transformers_python.run(SCRIPT, folder, inputs, out)
        return dict(np.load(out))

    return load


def _ours(found, tokens, steps):
    decoder = np.concatenate([np.zeros_like(tokens[:, :1]), tokens[:, :5]], axis=1)
    batch = {
        "encoder_input_tokens": tokens,
        "encoder_segment_ids": (tokens != 0).astype(np.int32),
        "decoder_input_tokens": decoder,
        "decoder_segment_ids": np.ones_like(decoder),
    }
    batch = {name: jnp.asarray(array, jnp.int32) for name, array in batch.items()}
    params = read_all(found)
    apply = jax.jit(lambda params: Transformer(found.config).apply({"params": params}, batch))
    logits = apply(params)
    partitioner = Partitioner(devices=jax.devices()[:1])
    ids = greedy(
        params,
        partitioner.put_rows(tokens.astype(np.int32)),
        config=found.config,
        partitioner=partitioner,
        max_decode_length=steps,
    )
    return np.asarray(logits), partitioner.fetch(ids)


def _tokens(vocab_size, rows):
    rng = np.random.default_rng(0)
    tokens = rng.integers(3, vocab_size, (rows, 12)).astype(np.int32)
    tokens[:, -1] = 1
    tokens[::2, 8:] = 0
    tokens[::2, 7] = 1
    return tokens


def _assert_same_text(theirs, ours):
    """Equal up to each first EOS; theirs begins with the decoder's start."""
    for row, own in zip(theirs[:, 1:].tolist(), ours.tolist(), strict=True):
        until = [ids[: ids.index(1) + 1] if 1 in ids else ids for ids in (row, own)]
        assert until[0] == until[1][: len(until[0])]


@pytest.mark.parametrize("config", [made.UNTIED, made.TIED], ids=["untied", "tied"])
def test_transformers_computes_the_same(transformers, tmp_path, config: T5Config):
    source = made.checkpoint(config)
    hf_write.write(tmp_path / "model", source)
    tokens = _tokens(config.vocab_size, 8)
    theirs = transformers(tmp_path / "model", tokens)
    logits, ids = _ours(source, tokens, 20)
    scale = np.abs(logits).max()
    np.testing.assert_allclose(theirs["logits"], logits, atol=2e-5 * scale, rtol=0)
    _assert_same_text(theirs["ids"], ids)
    # What transformers saves of it, with its own way to say untied, is read as the same model.
    again = hf.read(str(tmp_path / "model_again"))
    made.assert_same_params(again.params, source.params)
    assert again.config == source.config


def test_transformers_generates_the_same_ids_with_trained_weights(transformers, shared, tmp_path):
    source = hf.read(str(shared / "vectors" / "final_pt_svamp.safetensors"))
    hf_write.write(tmp_path / "model", source)
    tokens = _tokens(source.config.vocab_size, 200)
    theirs = transformers(tmp_path / "model", tokens)
    _, ids = _ours(source, tokens, 20)
    _assert_same_text(theirs["ids"], ids)
