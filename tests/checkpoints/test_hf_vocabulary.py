"""What a fine-tune did to tokenizer, embedding and names: read, or refused in one line."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from helpers import made_checkpoints as made
from safetensors.numpy import load_file, save_file

from sbs_jax.checkpoints import convert, initial
from sbs_jax.checkpoints.formats import hf, hf_write
from sbs_jax.errors import UserError
from sbs_jax.inference import student
from sbs_jax.input_pipeline import vocabularies

SPECIAL = {"<pad>": 0, "</s>": 1, "<unk>": 2}


@pytest.fixture
def folder(tmp_path):
    """A model of 384 rows with the demo's vocabulary of 105 pieces and 100 extra ids."""
    hf_write.write(tmp_path / "model", made.checkpoint())
    shutil.copyfile(vocabularies.model_path("demo"), tmp_path / "model" / "spiece.model")
    return tmp_path / "model"


def decoder(tokens: dict) -> dict:
    return {"added_tokens_decoder": {str(i): {"content": t} for t, i in tokens.items()}}


def listed(tokens: dict) -> dict:
    return {"added_tokens": [{"content": t, "id": i} for t, i in tokens.items()]}


EXTRA = {f"<extra_id_{i}>": 204 - i for i in range(100)}


@pytest.mark.parametrize(
    ("file", "content", "added"),
    [
        ("added_tokens.json", {"{": 249, "}": 250}, {"{": 249, "}": 250}),
        ("added_tokens.json", {"<sep>": 249, **EXTRA}, {"<sep>": 249}),
        ("tokenizer_config.json", decoder({**SPECIAL, **EXTRA, "[ANS]": 249}), {"[ANS]": 249}),
        ("tokenizer_config.json", decoder({"<mask>": 7}), {"<mask>": 7}),
        ("tokenizer.json", listed({**SPECIAL, "\n": 250, **EXTRA}), {"\n": 250}),
        ("tokenizer.json", {"added_tokens": [{"content": "[A]", "id": None}]}, {"[A]": None}),
        ("tokenizer.json", {"added_tokens": [{"content": "[A]", "id": "249"}]}, {"[A]": 249}),
        ("tokenizer.json", {"added_tokens": [{"content": "[A]", "id": "x"}, 7]}, {"[A]": None}),
        ("special_tokens_map.json", {"additional_special_tokens": ["<sep>"]}, {"<sep>": None}),
        ("special_tokens_map.json", {"eos_token": {"content": "<|end|>"}}, {"<|end|>": None}),
        ("tokenizer_config.json", {"extra_special_tokens": {"a": "<a>"}}, {"<a>": None}),
        ("special_tokens_map.json", {"eos_token": "</s>", "pad_token": "<pad>"}, {}),
        ("special_tokens_map.json", {"additional_special_tokens": [*EXTRA]}, {}),
        ("added_tokens.json", EXTRA, {}),
        ("tokenizer_config.json", decoder({**SPECIAL, **EXTRA}), {}),
        ("tokenizer.json", listed({**SPECIAL, **EXTRA}), {}),
        ("tokenizer_config.json", {"extra_ids": 100}, {}),
    ],
)
def test_added_tokens_are_found_in_every_file_that_lists_them(folder, file, content, added):
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    assert hf.read(str(folder)).added_tokens == added


def test_a_token_that_one_file_gives_an_id_is_told_with_it(folder):
    (folder / "special_tokens_map.json").write_text('{"sep_token": "<sep>"}')
    (folder / "tokenizer.json").write_text(
        '\ufeff{"added_tokens": [{"content": "<sep>", "id": 249}]}'
    )
    assert hf.read(str(folder)).added_tokens == {"<sep>": 249}


@pytest.mark.parametrize("content", [b"", b"\x0a\x01", b"not a model"])
def test_a_vocabulary_without_pieces_is_refused(folder, content):
    (folder / "spiece.model").write_bytes(content)
    with pytest.raises(UserError, match=r"spiece\.model: not a SentencePiece model"):
        hf.read(str(folder))


def test_a_piece_of_the_vocabulary_is_no_added_token(folder):
    from sentencepiece import sentencepiece_model_pb2 as pb

    pieces = pb.ModelProto.FromString((folder / "spiece.model").read_bytes()).pieces
    known = {pieces[5].piece: 5, pieces[40].piece: 40}
    (folder / "added_tokens.json").write_text(json.dumps(known))
    assert hf.read(str(folder)).added_tokens == {}
    (folder / "added_tokens.json").write_text(json.dumps({pieces[5].piece: 6}))
    assert hf.read(str(folder)).added_tokens == {pieces[5].piece: 6}


def test_a_byte_tokenizer_with_added_tokens(tmp_path):
    hf_write.write(tmp_path / "model", made.checkpoint(vocabulary="bytes"))
    assert hf.read(str(tmp_path / "model")).added_tokens == {}
    (tmp_path / "model" / "added_tokens.json").write_text('{"<table>": 384}')
    found = hf.read(str(tmp_path / "model"))
    assert (found.vocabulary, found.added_tokens) == ("bytes", {"<table>": 384})


def test_added_tokens_are_refused_unless_the_vocabulary_is_named(folder, tmp_path, capsys):
    (folder / "added_tokens.json").write_text('{"{": 249, "}": 250, "<": 251, ">": 252}')
    with pytest.raises(UserError, match=r"4 added tokens \('\{' = 249, .*, \.\.\.\).*--vocabulary"):
        convert.convert(str(folder), str(tmp_path / "out"), "sbs")
    with pytest.raises(UserError, match="4 added tokens"):
        student.find(str(folder))
    assert not (tmp_path / "out").exists()
    done = convert.convert(str(folder), str(tmp_path / "out"), "sbs", vocabulary="demo")
    assert done.source.added_tokens
    # A run has a vocabulary of its own: it starts, and says what it does not use.
    initial.load_params(str(folder), made.UNTIED)
    assert "4 added tokens" in capsys.readouterr().err


def resize(folder, rows, names=("shared.weight", "lm_head.weight")):
    tensors = load_file(folder / "model.safetensors")
    for name in names:
        tensors[name] = np.resize(tensors[name], (rows, tensors[name].shape[1]))
    save_file(tensors, folder / "model.safetensors")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": rows}))


@pytest.mark.parametrize("rows", [205, 206, 256, 387, 32_100])
def test_an_embedding_may_have_any_number_of_rows_that_holds_every_id(folder, tmp_path, rows):
    resize(folder, rows)
    found = hf.read(str(folder))
    assert found.config.vocab_size == rows
    convert.convert(str(folder), str(tmp_path / "out"), "sbs")
    assert student.find(str(tmp_path / "out")).checkpoint.config.vocab_size == rows
    initial.load_params(str(folder), dataclasses.replace(made.UNTIED, vocab_size=rows))
    with pytest.raises(UserError, match=rf"has {rows} rows and the model 384; set VOCAB_SIZE"):
        initial.load_params(str(folder), made.UNTIED)


def test_fewer_rows_than_ids_and_halves_that_differ_are_refused(folder):
    resize(folder, 204)
    with pytest.raises(UserError, match="needs 205 embedding rows"):
        student.find(str(folder))
    resize(folder, 300, names=("shared.weight",))
    with pytest.raises(UserError, match="logits_dense"):
        hf.read(str(folder))


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "model.module.", "t5."])
def test_a_wrappers_prefix_is_left_out(folder, prefix):
    tensors = load_file(folder / "model.safetensors")
    save_file({prefix + name: t for name, t in tensors.items()}, folder / "model.safetensors")
    made.assert_same_params(hf.read(str(folder)).params, made.checkpoint().params)


def test_a_prefix_before_some_tensors_only_is_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    some = {"model." + name: t for name, t in tensors.items()}
    some["score.weight"] = some.pop("model.lm_head.weight")
    save_file(some, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"lm_head\.weight is missing|not the parameters"):
        hf.read(str(folder))


@pytest.mark.parametrize(
    "kept", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"]
)
def test_of_tied_tensors_any_one_is_enough(tmp_path, kept):
    hf_write.write(tmp_path / "model", made.checkpoint(made.TIED))
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors[kept] = tensors.pop("shared.weight")
    save_file(tensors, file)
    made.assert_same_params(
        hf.read(str(tmp_path / "model")).params, made.checkpoint(made.TIED).params
    )


@pytest.mark.parametrize(
    ("config", "changes", "field"),
    [
        (made.UNTIED, {"feed_forward_proj": "gelu", "is_gated_act": True}, "feed_forward_proj"),
        (made.UNTIED, {"dense_act_fn": "gelu"}, "dense_act_fn"),
        (made.UNTIED, {"dense_act_fn": "relu"}, "dense_act_fn"),
        (made.UNTIED, {"is_gated_act": False}, "is_gated_act"),
        (made.TIED, {"is_gated_act": True}, "is_gated_act"),
        (made.TIED, {"dense_act_fn": "gelu_new"}, "dense_act_fn"),
        (made.TIED, {"feed_forward_proj": "gated-gelu"}, "feed_forward_proj"),
        (made.UNTIED, {"num_heads": 4}, "num_heads"),
        (made.UNTIED, {"vocab_size": 32128}, "vocab_size"),
        (made.UNTIED, {"dropout_rate": "0.1"}, "dropout_rate"),
        (made.UNTIED, {"dropout_rate": float("nan")}, "dropout_rate"),
        (made.UNTIED, {"dense_act_fn": "gelu_new", "is_gated_act": True}, None),
        (made.UNTIED, {"feed_forward_proj": "gated-gelu_new"}, None),
        (made.UNTIED, {"model_type": "mt5", "feed_forward_proj": None}, None),
        (made.UNTIED, {"eos_token_id": [1]}, None),
        (made.TIED, {"dense_act_fn": "relu", "is_gated_act": False}, None),
    ],
)
def test_fields_of_a_config_that_contradict_each_other_are_refused(
    tmp_path, config, changes, field
):
    hf_write.write(tmp_path / "model", made.checkpoint(config))
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    if field is None:
        assert hf.read(str(tmp_path / "model")).config == config
        return
    with pytest.raises(UserError, match=rf"config\.json: .*{field}"):
        hf.read(str(tmp_path / "model"))
