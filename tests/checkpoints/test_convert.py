"""sbs convert: round trips bit for bit, all or nothing, in little memory."""

import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers import made_checkpoints as made
from safetensors.numpy import load_file

from sbs_jax.checkpoints import convert, initial
from sbs_jax.checkpoints.formats import hf, hf_write, t5x
from sbs_jax.checkpoints.formats.params import LazyArray
from sbs_jax.cli import main
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.utils import paths

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*args):
    return main(["convert", *map(str, args)])


def make(folder, config=made.UNTIED, **fields):
    hf_write.write(folder, made.checkpoint(config, **fields))
    return folder


def round_trip(source, folder):
    """hf -> sbs -> t5x -> sbs -> hf."""
    chain = [source] + [folder / name for name in ("a", "checkpoint_0", "b", "c")]
    for before, after, kind in zip(chain, chain[1:], ("sbs", "t5x", "sbs", "hf"), strict=False):
        assert run(f"--to={kind}", before, after) == 0
    return load_file(chain[-1] / "model.safetensors")


def assert_same_tensors(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize(
    "config",
    [made.UNTIED, pytest.param(made.TIED, marks=pytest.mark.slow)],
    ids=["untied", "tied"],
)
def test_the_round_trip_is_bit_equal(tmp_path, capsys, config):
    source = make(tmp_path / "source", config)
    assert_same_tensors(
        round_trip(source, tmp_path), load_file(tmp_path / "source" / "model.safetensors")
    )
    assert (tmp_path / "c" / "config.json").read_text() == (source / "config.json").read_text()
    told = capsys.readouterr().out
    assert told.count("every array equal bit for bit, and the logits of a fixed input") == 4


@pytest.mark.slow
def test_the_originals_weights_survive_the_round_trip(shared, tmp_path):
    source = shared / "vectors" / "init_micro.safetensors"
    assert_same_tensors(round_trip(source, tmp_path), load_file(source))


@pytest.mark.slow
def test_every_bit_pattern_survives(tmp_path):
    """NaN payloads, denormals, infinities and minus zero are numbers like others here."""
    source = make(tmp_path / "source")
    tensors = load_file(source / "model.safetensors")
    pattern = [
        0x7FC00001,
        0xFFC12345,
        1,
        0x80000000,
        0x7F800000,
        0xFF800000,
        0x00800000,
        0x7F7FFFFF,
    ]
    special = np.array(pattern * 2, np.uint32).view(np.float32)
    tensors["encoder.final_layer_norm.weight"] = special
    hf_write.write_safetensors(
        source / "model.safetensors", {name: made.lazy(t) for name, t in tensors.items()}
    )
    assert_same_tensors(round_trip(source, tmp_path), tensors)


def test_step_and_vocabulary_travel(tmp_path):
    demo = paths.asset("demo.model")
    t5x.write(tmp_path / "checkpoint_9", made.checkpoint(step=9))
    assert run("--to=sbs", f"--vocabulary={demo}", tmp_path / "checkpoint_9", tmp_path / "a") == 0
    assert [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()] == ["9"]
    vocabulary = vocabularies.load(initial.find(str(tmp_path / "a")).vocabulary)
    assert vocabulary.fingerprint == vocabularies.load(str(demo)).fingerprint
    assert run("--to=t5x", tmp_path / "a", tmp_path / "checkpoint_9_again") == 0
    assert t5x.read(str(tmp_path / "checkpoint_9_again")).step == 9


def test_the_format_can_be_given(tmp_path, capsys):
    source = make(tmp_path / "source")
    assert run("--from=hf", "--to=t5x", source, tmp_path / "a") == 0
    assert run("--from=t5x", "--to=sbs", source, tmp_path / "b") == 2
    assert "no file 'checkpoint', the index of a T5X checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_nothing_is_overwritten(tmp_path, capsys):
    source = make(tmp_path / "source")
    (tmp_path / "there").mkdir()
    assert run("--to=t5x", source, tmp_path / "there") == 2
    assert "already exists; choose another folder" in capsys.readouterr().err
    assert not list((tmp_path / "there").iterdir())


def test_a_destination_that_cannot_be_written_is_named(tmp_path, capsys):
    source = make(tmp_path / "source")
    (tmp_path / "file").write_text("")
    assert run("--to=hf", source, tmp_path / "file" / "model") == 2
    assert "model: cannot be written (" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["hf", "t5x", "sbs"])
def test_a_full_disk_leaves_nothing(tmp_path, kind):
    """The limit of a file's size stands for the disk's: both fail in the middle of a write."""
    source = make(tmp_path / "source")
    there = sorted(tmp_path.iterdir())
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); from sbs_jax import cli; "
        f"sys.exit(cli.main(['convert', '--to={kind}', {str(source)!r}, {str(tmp_path / 'o')!r}]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": ""}
    answer = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 2, answer.stderr
    errors = answer.stderr.splitlines()
    assert [line for line in errors if line.startswith("sbs: error: ")] == errors[-1:]
    assert sorted(tmp_path.iterdir()) == there


def test_a_copy_that_comes_out_different_is_not_kept(tmp_path):
    source, other = made.checkpoint(), made.checkpoint()
    name = "encoder/layers_1/mlp/wo/kernel"
    changed = source.params[name].read().copy()
    changed[3, 4] = np.nextafter(changed[3, 4], np.inf)
    other.params[name] = made.lazy(changed)
    with pytest.raises(UserError, match=f"{name} came out different"):
        convert.compare(source, other)
    tied = made.checkpoint(made.TIED)
    with pytest.raises(UserError, match="model came out different"):
        convert.compare(source, tied)


def test_logits_depend_on_every_parameter():
    """So that comparing them compares the models."""
    source = made.checkpoint()
    expected = np.asarray(convert.logits(source))
    for name, array in source.params.items():
        other = made.checkpoint()
        doubled = array.read() * 2
        other.params[name] = LazyArray(array.shape, array.dtype, lambda doubled=doubled: doubled)
        assert not np.array_equal(np.asarray(convert.logits(other)), expected), name


def test_random_damage_of_an_index_is_never_a_traceback(tmp_path):
    folder = tmp_path / "checkpoint_0"
    t5x.write(folder, made.checkpoint())
    good = (folder / "checkpoint").read_bytes()
    rng, refused = random.Random(0), 0
    for _ in range(300):
        data = bytearray(good)
        for _ in range(rng.choice([1, 1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (folder / "checkpoint").write_bytes(bytes(data[: rng.choice([None, None, 500])]))
        try:
            for array in t5x.read_state(str(folder)).values():
                array.read()
        except UserError as error:
            assert "\n" not in str(error)
            refused += 1
    assert 100 < refused <= 300


MEMORY = """
import resource, sys
from sbs_jax.checkpoints import convert
convert.LOGITS_BYTES = 0
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
small, large, out = sys.argv[1:]
def chain(source, name):
    for kind, target in (("sbs", "a"), ("t5x", "b"), ("hf", "c")):
        convert.convert(source, f"{out}/{name}{target}", kind)
        source = f"{out}/{name}{target}"
chain(small, "small")
before = peak()
chain(large, "large")
print(peak() - before)
"""


@pytest.mark.slow
def test_a_model_is_converted_in_a_fraction_of_its_size(tmp_path):
    layers = {"num_encoder_layers": 12, "num_decoder_layers": 12}
    config = dataclasses.replace(made.UNTIED, emb_dim=512, mlp_dim=2048, num_heads=32, **layers)
    large = made.checkpoint(config)
    size = 4 * large.size
    small, large = make(tmp_path / "small"), make(tmp_path / "large", config)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MEMORY, str(small), str(large), str(tmp_path)]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert size > 300 * 2**20
    assert int(answer.stdout) < size / 2
    assert hf.read(str(tmp_path / "largec")).size == size // 4
    shutil.rmtree(tmp_path)
