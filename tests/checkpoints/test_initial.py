"""INITIAL_CHECKPOINT_PATH: what it finds, what it tells, and what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from helpers import made_checkpoints as made

from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.formats import hf_write, native, t5x
from sbs_jax.checkpoints.formats.params import nested, read_all, shapes_of
from sbs_jax.checkpoints.manager import CheckpointManager
from sbs_jax.configs import TrainConfig
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.inference import student
from sbs_jax.models.t5 import init_params

WRITERS = {"hf": hf_write.write, "t5x": t5x.write, "sbs": native.write}
NAMES = {"hf": "Hugging Face", "t5x": "T5X", "sbs": "sbs_jax"}


def assert_same_tree(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("kind", WRITERS)
def test_each_format_is_found_told_and_read(tmp_path, capsys, kind):
    source = made.checkpoint(step=0 if kind == "hf" else 5)
    path = str(tmp_path / "checkpoint_5")
    WRITERS[kind](tmp_path / "checkpoint_5", source)
    params = initial.load_params(path, made.UNTIED)
    assert_same_tree(params, read_all(source))
    assert jax.tree.all(jax.tree.map(lambda leaf: leaf.dtype == np.float32, params))
    told = capsys.readouterr().err
    assert f"INITIAL_CHECKPOINT_PATH {path}" in told
    assert f"{NAMES[kind]} checkpoint of step {source.step}, {source.size:,} parameters" in told


def test_a_safetensors_file_alone_will_do(tmp_path):
    hf_write.write(tmp_path / "model", made.checkpoint())
    params = initial.load_params(str(tmp_path / "model" / "model.safetensors"), made.UNTIED)
    assert_same_tree(params, read_all(made.checkpoint()))


@pytest.fixture
def model_dir(tmp_path):
    """As training leaves it: two checkpoints with optimizer slots, the first the better one."""
    with CheckpointManager(tmp_path / "run" / "checkpoints", metric="accuracy") as store:
        for step, accuracy in ((10, 0.9), (20, 0.1)):
            params = init_params(made.UNTIED, jax.random.key(step))
            state = {"step": step, "params": params, "opt_state": optax.adamw(1.0).init(params)}
            store.save(step, jax.tree.map(jax.numpy.asarray, state))
            store.note({step: accuracy}, None)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("inside", "step"), [("", 10), ("checkpoints", 10), ("checkpoints/20", 20)]
)
def test_a_model_dir_gives_its_best_or_the_step_asked_for(model_dir, inside, step):
    params = initial.load_params(str(model_dir / inside), made.UNTIED)
    assert_same_tree(params, init_params(made.UNTIED, jax.random.key(step)))


def test_a_damaged_checkpoint_of_ours_is_refused(model_dir):
    largest = max(
        (model_dir / "checkpoints" / "20" / "state").rglob("d/*"), key=lambda p: p.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(bytes(data))
    message = r"20: damaged \(.*\); copy it again, or take .*checkpoints/10, which is intact"
    with pytest.raises(UserError, match=message):
        initial.load_params(str(model_dir / "checkpoints" / "20"), made.UNTIED)


def test_what_a_conversion_writes_is_loaded_as_a_student(tmp_path):
    source = made.checkpoint(vocabulary="bytes", step=3)
    native.write(tmp_path / "model", source)
    loaded = student.find(tmp_path / "model")
    assert_same_tree(loaded.params(Partitioner()), read_all(source))
    assert (loaded.config, loaded.vocabulary.spec) == (made.UNTIED, "bytes")
    assert (loaded.checkpoint.step, loaded.run) == (3, None)
    assert not (tmp_path / "model" / "run.json").exists()
    with pytest.raises(UserError, match=r"no run\.json; give the MODEL_DIR of sbs train"):
        student.find_run(tmp_path / "model")


def test_a_converted_folder_of_older_versions_is_no_run(tmp_path):
    """They wrote a run.json with invented lengths and no task, where model.json is now."""
    native.write(tmp_path / "model", made.checkpoint(vocabulary="bytes", step=3))
    (tmp_path / "model" / "model.json").unlink()
    invented = TrainConfig(
        model_dir="x",
        mixture_or_task_name="",
        task_feature_lengths={"inputs": 1024, "targets": 256},
        train_steps=3,
        model=made.UNTIED,
        vocabulary="bytes",
    )
    fields = {**dataclasses.asdict(invented), "fingerprints": {}}
    (tmp_path / "model" / "run.json").write_text(json.dumps(fields))
    loaded = student.find(tmp_path / "model")
    assert (loaded.run, loaded.asking, loaded.vocabulary.spec) == (None, None, "bytes")
    with pytest.raises(UserError, match="no way to ask them is known"):
        student.find_run(tmp_path / "model")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mlp_dim": 64}, r"wi_0/kernel is \[16, 32\] there and \[16, 64\] in the model"),
        ({"num_decoder_layers": 2}, r"14 missing \(decoder/layers_1/.*, \.\.\.\); none unknown"),
        ({"num_encoder_layers": 1}, r"none missing; 9 unknown \(encoder/layers_1/"),
        ({"logits_via_embedding": True}, r"1 unknown \(decoder/logits_dense/kernel\)"),
        (
            {"mlp_activations": ("relu",)},
            r"3 missing \(decoder/layers_0/mlp/wi/kernel, .*\); 6 unknown",
        ),
    ],
)
def test_what_does_not_match_is_named(tmp_path, kind, changes, reason):
    WRITERS[kind](tmp_path / "checkpoint_0", made.checkpoint())
    config = dataclasses.replace(made.UNTIED, **changes)
    with pytest.raises(UserError, match=reason) as raised:
        initial.load_params(str(tmp_path / "checkpoint_0"), config)
    assert str(raised.value).startswith("INITIAL_CHECKPOINT_PATH ")
    assert "\n" not in str(raised.value)


def test_names_of_another_layout_are_no_t5(tmp_path):
    """As in scalable T5, whose layers are stacked."""
    source = made.checkpoint()
    stacked = {name.replace("layers_0", "layers"): a for name, a in source.params.items()}
    t5x.write(tmp_path / "checkpoint_0", dataclasses.replace(source, params=stacked))
    with pytest.raises(UserError, match=r"not the parameters of a T5 \(it holds decoder/"):
        initial.load_params(str(tmp_path / "checkpoint_0"), made.UNTIED)


def test_paths_without_a_checkpoint_are_explained(tmp_path):
    (tmp_path / "empty").mkdir()
    t5x.write(tmp_path / "run" / "checkpoint_7", made.checkpoint())
    (tmp_path / "checkpoint_30" / "state").mkdir(parents=True)
    (tmp_path / "weights.h5").write_bytes(b"x")
    for path, reason in {
        tmp_path / "empty": "no checkpoint found; give a Hugging Face folder",
        tmp_path / "nowhere": "no checkpoint found; give a Hugging Face folder",
        tmp_path / "run": "it holds checkpoint_7: give that folder",
        tmp_path / "checkpoint_30": r"checkpoint_30/state: cannot be read \(",
        tmp_path / "weights.h5": r"no file of weights \(\.safetensors or \.bin\)",
        "google/t5-v1_1-base": "no checkpoint found; .* is hf://google/t5-v1_1-base",
    }.items():
        with pytest.raises(UserError, match=reason) as raised:
            initial.load_params(str(path), made.UNTIED)
        assert str(raised.value).startswith(f"INITIAL_CHECKPOINT_PATH {path}")


def test_shapes_are_the_models():
    expected = init_params(made.TIED, jax.random.key(0))
    shapes = nested(shapes_of(made.TIED))
    jax.tree.map(lambda leaf, shape: None, expected, shapes, is_leaf=lambda x: isinstance(x, tuple))
    assert shapes["encoder"]["relpos_bias"]["rel_embedding"] == (2, 32)
