"""Folders that are no checkpoint yet: one line names the file and the next step."""

import json
import shutil

import numpy as np
import pytest
from helpers import made_checkpoints as made
from safetensors.numpy import load_file, save_file

from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.formats import foreign_files, hf_write
from sbs_jax.errors import UserError


@pytest.fixture
def model(tmp_path):
    hf_write.write(tmp_path / "model", made.checkpoint())
    return tmp_path / "model"


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        initial.find(str(path))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("flax_model.msgpack", "from_flax=True"),
        ("flax_model-00001-of-00002.msgpack", "from_flax=True"),
        ("tf_model.h5", "from_tf=True"),
        ("ggml-model-Q4_K_M.gguf", "llama.cpp"),
        ("encoder_model.onnx", "ONNX"),
        ("model.bin", "CTranslate2"),
        ("zero_to_fp32.py", "zero_to_fp32.py to gather"),
        ("__0_0.distcp", "accelerate merge-weights"),
        ("epoch=3-step=500.ckpt", "Lightning"),
        ("student.pt", "save_pretrained"),
        ("onnx/encoder_model.onnx", "ONNX"),
        ("saved_model.pb", "TensorFlow program"),
        ("model.ckpt-1000.index", "TensorFlow checkpoint"),
        ("optimizer.pt", "state of a Trainer without the weights"),
        ("model.fp16.safetensors", "under another name"),
        ("model-00001-of-00002.safetensors", "copy model.safetensors.index.json"),
    ],
)
@pytest.mark.parametrize("config", [True, False], ids=["with config.json", "without"])
def test_weights_of_another_program_are_named_with_the_next_step(tmp_path, file, words, config):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"x")
    if file.endswith(".safetensors") and not config:
        pytest.skip("read without config.json: the weights themselves are asked for")
    if ".ckpt-" in file:
        (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-1000"')
    if config:
        (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    message = refusal(tmp_path)
    assert file in message
    assert words in message


@pytest.mark.parametrize("file", ["model.gguf", "model.onnx", "last.ckpt", "student.pth"])
def test_one_file_of_another_program_is_named_too(tmp_path, file):
    (tmp_path / file).write_bytes(b"x")
    assert "give the folder it was made from" in refusal(tmp_path / file) or (
        "save_pretrained" in refusal(tmp_path / file)
    )


@pytest.mark.parametrize("steps", [[500], [500, 1000, 60]])
@pytest.mark.parametrize("config", [True, False], ids=["with config.json", "without"])
def test_a_trainers_folder_names_its_newest_checkpoint(tmp_path, model, steps, config):
    above = tmp_path / "out"
    above.mkdir()
    for step in steps:
        shutil.copytree(model, above / f"checkpoint-{step}")
    (above / "checkpoint-9999").mkdir()  # empty: the Trainer was stopped there
    if config:
        (above / "config.json").write_text('{"model_type": "t5"}')
    assert f"it holds checkpoint-{max(steps)}" in refusal(above)
    assert initial.find(str(above / f"checkpoint-{max(steps)}")).size == made.checkpoint().size


@pytest.mark.parametrize("place", ["best_model", "0_Transformer", "snapshots/0123abc"])
def test_a_subfolder_that_holds_the_model_is_named(tmp_path, model, place):
    above = tmp_path / "out"
    shutil.copytree(model, above / place)
    assert f"it holds {place}: give that folder" in refusal(above)


@pytest.mark.parametrize("below", ["adapter", "default", "lora/", "checkpoint-500"])
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("beside", [True, False], ids=["below the model", "alone"])
def test_an_adapter_in_a_folder_below_is_named(tmp_path, model, capsys, below, name, beside):
    folder = model if beside else tmp_path / "empty"
    (folder / below).mkdir(parents=True)
    (folder / below / name).write_text("{}")
    if beside and below == "checkpoint-500":  # perhaps merged into the model above it
        initial.find(str(folder))
        assert "checkpoint-500: an adapter, which is not read; merge" in capsys.readouterr().err
        return
    message = refusal(folder)
    assert f"{below.strip('/')}/{name}: a LoRA adapter" in message
    assert ("move the adapter's files away" in message) == beside


def test_the_newest_adapter_of_a_trainer_is_named(tmp_path):
    for step in (90, 1000, 500):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "adapter_config.json").write_text("{}")
    assert "checkpoint-1000/adapter_config.json: a LoRA adapter" in refusal(tmp_path)


def test_a_model_below_goes_before_an_adapter_below(tmp_path, model):
    shutil.copytree(model, tmp_path / "out" / "merged")
    (tmp_path / "out" / "adapter").mkdir()
    (tmp_path / "out" / "adapter" / "adapter_config.json").write_text("{}")
    assert "it holds merged: give that folder" in refusal(tmp_path / "out")


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])
def test_an_adapter_that_cannot_be_merged_is_not_told_to_be(tmp_path, kind):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    message = refusal(tmp_path)
    assert f"type {kind}" in message
    assert "merge_and_unload" not in message


@pytest.mark.parametrize("name", ["model.safetensors", "spiece.model"])
def test_a_pointer_of_git_lfs_is_named(model, name):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 791656\n"
    (model / name).write_text(pointer)
    assert f"{name}: a pointer of Git LFS" in refusal(model)


def test_a_pickled_pointer_of_git_lfs_is_named(model):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "pytorch_model.bin: a pointer of Git LFS" in refusal(model)


def test_an_encoder_alone_is_named(model):
    tensors = load_file(model / "model.safetensors")
    encoder = {n: t for n, t in tensors.items() if n.startswith(("encoder.", "shared."))}
    save_file(encoder, model / "model.safetensors")
    assert "an encoder without a decoder" in refusal(model)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside the model", "alone"])
def test_an_adapter_is_never_left_out_in_silence(tmp_path, model, name, beside):
    folder = model if beside else tmp_path
    (folder / name).write_bytes(b"{}")
    message = refusal(folder)
    assert "LoRA adapter" in message
    assert "merge_and_unload" in message
    assert ("move the adapter's files away" in message) == beside


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.encoder.block.0.layer.0.SelfAttention.q.lora_A.weight",
        "encoder.block.0.layer.0.SelfAttention.q.lora_A.default.weight",
        "encoder.block.0.layer.0.SelfAttention.q.base_layer.weight",
        "prompt_embeddings",
    ],
)
def test_weights_with_an_adapter_that_is_not_merged_are_refused(model, name):
    tensors = load_file(model / "model.safetensors")
    save_file({**tensors, name: np.zeros((4, 4), np.float32)}, model / "model.safetensors")
    assert "merge_and_unload" in refusal(model)


def test_a_folder_of_nothing_known_has_no_next_step(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert foreign_files.next_step(tmp_path) is None
    assert "give a Hugging Face folder" in refusal(tmp_path)


def test_a_complete_model_beside_foreign_files_is_read(model):
    for name in ("flax_model.msgpack", "optimizer.pt", "tf_model.h5"):
        (model / name).write_bytes(b"x")
    (model / "trainer_state.json").write_text(json.dumps({"global_step": 5}))
    assert initial.find(str(model)).size == made.checkpoint().size
