"""pytorch_model.bin: the weights of honest files, nothing of malicious ones."""

import builtins
import collections
import json
import os
import pathlib
import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest
from helpers import made_checkpoints as made
from helpers import transformers_python
from helpers.torch_files import (
    Pickler,
    Storage,
    StreamPickler,
    Tensor,
    pickled,
    state_of,
    storages_of,
    write_archive,
    write_stream,
)
from safetensors.numpy import load_file

from sbs_jax.checkpoints import convert
from sbs_jax.checkpoints.formats import hf, hf_write, torch_file
from sbs_jax.cli import main
from sbs_jax.errors import UserError

WRITERS = {"archive": write_archive, "stream": write_stream}


@pytest.fixture
def folder(tmp_path):
    """A model whose weights are safetensors; tests put pickled ones in their place."""
    hf_write.write(tmp_path / "model", made.checkpoint())
    return tmp_path / "model"


def tensors_of(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return tensors


@pytest.mark.parametrize("kind", WRITERS)
def test_weights_are_read_as_they_are(folder, kind):
    WRITERS[kind](folder / "pytorch_model.bin", state_of(tensors_of(folder)))
    made.assert_same_params(hf.read(str(folder)).params, made.checkpoint().params)
    alone = hf.read(str(folder / "pytorch_model.bin"))
    made.assert_same_params(alone.params, made.checkpoint().params)


def test_half_precision_is_widened(folder):
    tensors = {name: array.astype(np.float16) for name, array in tensors_of(folder).items()}
    write_archive(folder / "pytorch_model.bin", state_of(tensors))
    name = "token_embedder/embedding"
    expected = tensors["shared.weight"].astype(np.float32)
    np.testing.assert_array_equal(hf.read(str(folder)).params[name].read(), expected)


def test_shards_are_read(folder):
    tensors = tensors_of(folder)
    names = sorted(tensors)
    parts = {"pytorch_model-1.bin": names[:20], "pytorch_model-2.bin": names[20:]}
    for file, held in parts.items():
        write_archive(folder / file, state_of({name: tensors[name] for name in held}))
    weight_map = {name: file for file, held in parts.items() for name in held}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    made.assert_same_params(hf.read(str(folder)).params, made.checkpoint().params)


def test_safetensors_are_preferred(folder):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    made.assert_same_params(hf.read(str(folder)).params, made.checkpoint().params)


def test_views_of_a_storage(tmp_path):
    storage = Storage("0", np.arange(100, dtype=np.float32))
    state = {
        "transposed": Tensor(storage, (4, 3), strides=(1, 4), offset=10),
        "scalar": Tensor(storage, (), strides=(), offset=7),
        "row": Tensor(storage, (5,), offset=95),
    }
    write_archive(tmp_path / "views.bin", state)
    found = torch_file.read(tmp_path / "views.bin")
    np.testing.assert_array_equal(
        found["transposed"].read(), np.arange(10, 22).reshape(3, 4).T.astype(np.float32)
    )
    assert found["scalar"].read() == 7
    np.testing.assert_array_equal(found["row"].read(), [95, 96, 97, 98, 99])


SAVE = """
import collections, sys, torch
from safetensors.torch import load_file
tensors, new, old, parameters = load_file(sys.argv[1]), *sys.argv[2:]
state = collections.OrderedDict(tensors)
state._metadata = {"": {"version": 1}}
torch.save(state, new)
torch.save(state, old, _use_new_zipfile_serialization=False)
torch.save({name: torch.nn.Parameter(t) for name, t in tensors.items()}, parameters)
"""


def test_files_of_torch_itself(folder, tmp_path):
    transformers_python.require()
    files = [tmp_path / f"{name}.bin" for name in ("new", "old", "parameters")]
    transformers_python.run(SAVE, folder / "model.safetensors", *files)
    for file in files:
        made.assert_same_params(hf.read(str(file)).params, made.checkpoint().params)


# Malicious files.


class Call:
    """Unpickling this calls a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Build:
    """Unpickling this sets attributes of what OrderedDict() gives."""

    def __reduce__(self):
        return collections.OrderedDict, (), {"update": Call(os.mkdir, "mark")}


def hidden_in(state):
    return {**state, "shared.weight": Call(os.mkdir, "mark")}


BUILTIN = f"c{builtins.__name__}\nexec\n(X\x04\x00\x00\x00passtR.".encode()

MALICIOUS = {
    "a call": lambda state: pickled(Call(os.mkdir, "mark")),
    "a call among weights": lambda state: pickled(hidden_in(state)),
    "a call in a tensor": lambda state: pickled({"x": Tensor(Call(os.mkdir, "mark"), (1,))}),
    "a later protocol": lambda state: pickle.dumps(Call(os.mkdir, "mark"), protocol=5),
    "the text protocol": lambda state: pickle.dumps(Call(os.mkdir, "mark"), protocol=0),
    "builtins": lambda state: b"\x80\x02" + BUILTIN,
    "an instance": lambda state: b"\x80\x02(ios\nmkdir\n.",
    "an object": lambda state: b"\x80\x02cos\nmkdir\n(X\x04\x00\x00\x00mark\x81.",
    "an extension": lambda state: b"\x80\x02\x82\x01.",
    "a stack global": lambda state: b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c\x04mark\x85R.",
    "attributes": lambda state: pickled(Build()),
    "a getter of torch": lambda state: b"\x80\x02ctorch._utils\n_rebuild_tensor\n.",
    "a module's attribute": lambda state: b"\x80\x02ctorch.serialization\nos.mkdir\n.",
}


@pytest.mark.parametrize("malice", MALICIOUS)
@pytest.mark.parametrize("kind", WRITERS)
def test_nothing_of_a_malicious_file_is_executed_or_written(
    folder, tmp_path, capsys, monkeypatch, malice, kind
):
    state = state_of(tensors_of(folder))
    WRITERS[kind](folder / "pytorch_model.bin", state, MALICIOUS[malice](state))
    monkeypatch.chdir(tmp_path)
    there = sorted(tmp_path.rglob("*"))
    assert main(["convert", "--to=t5x", "model", "out"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and "pytorch_model.bin: not plain weights (" in errors[0]
    assert "nothing of it was run" in errors[0]
    assert sorted(tmp_path.rglob("*")) == there


def test_what_a_file_asks_for_is_named(folder):
    state = state_of(tensors_of(folder))
    write_archive(folder / "pytorch_model.bin", state, pickled(Call(os.mkdir, "mark")))
    with pytest.raises(UserError, match=r"not plain weights \(it asks for posix mkdir\)"):
        hf.read(str(folder))


def test_no_pickle_is_loaded_and_torch_is_not_asked(folder, monkeypatch):
    """Whatever is installed, the standard library's and torch's loaders stay out of it."""

    def forbidden(*args, **kwargs):
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler", "_load", "_loads"):
        monkeypatch.setattr(pickle, name, forbidden)
    monkeypatch.setitem(sys.modules, "torch", None)
    write_archive(folder / "pytorch_model.bin", state_of(tensors_of(folder)))
    made.assert_same_params(hf.read(str(folder)).params, made.checkpoint().params)


# Damaged files.


def archive_of(change):
    def write(path, state):
        change(state)
        write_archive(path, state)

    return write


def larger_than_its_numbers(state):
    state["shared.weight"].shape = (10**6, 16)


def beyond_the_end(state):
    state["shared.weight"].offset = 10


def negative(state):
    state["shared.weight"].offset = -1


def repeated_numbers(state):
    state["shared.weight"].shape, state["shared.weight"].strides = (10**9, 10**9), (0, 0)


def missing_numbers(state):
    storage = state["shared.weight"].storage
    storage.array = storage.array[:10]
    state["shared.weight"].shape, state["shared.weight"].strides = (10, 1), (1, 1)


def not_a_tensor(state):
    state["step"] = 3


def shorter_than_told(path, state):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(state))
        for key, array in storages_of(state).items():
            archive.writestr(f"archive/data/{key}", array.tobytes()[:-4])


def many_dimensions(path, state):
    state["shared.weight"].shape = state["shared.weight"].strides = (1,) * 100
    write_archive(path, state)


def no_numbers(path, state):
    state["shared.weight"].shape = (0, 16)
    write_archive(path, state)


def tuples_of_tuples(path, state):
    """2 ** 60 leaves in a few bytes; as a key, their hash would take years."""
    doubled = b"".join(b"q%ch%c\x86" % (i, i) for i in range(1, 60))
    write_archive(path, state, b"\x80\x02}K\x01" + doubled + b"K\x01s.")


def encrypted(path, state):
    write_archive(path, state)
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        begin = data.find(signature)
        data[begin + flags] |= 1
    path.write_bytes(bytes(data))


def cut(path, state):
    write_archive(path, state)
    path.write_bytes(path.read_bytes()[:-2000])


def cut_stream(path, state):
    write_stream(path, state)
    path.write_bytes(path.read_bytes()[:-20])


def cut_stream_early(path, state):
    write_stream(path, state)
    path.write_bytes(path.read_bytes()[:900])


def claims_more_bytes_than_memory(path, state):
    """An instruction for 2 ** 40 bytes, found by fuzzing: Python allocates before it reads."""
    write_stream(path, state, b"\x80\x02\x8e" + struct.pack("<Q", 2**40) + b".")


def no_file_of_torch(path, state):
    path.write_bytes(b"hello")


def no_dictionary(path, state):
    write_archive(path, state, pickled((1, 2)))


def compressed(path, state):
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled(state))
        for key, array in storages_of(state).items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


DAMAGES = {
    archive_of(larger_than_its_numbers): "a tensor larger than its numbers",
    archive_of(beyond_the_end): "a tensor larger than its numbers",
    archive_of(repeated_numbers): "a tensor larger than its numbers",
    archive_of(negative): "impossible shape",
    archive_of(missing_numbers): r"\[16\] there and \[1\] in the model",
    archive_of(not_a_tensor): "not plain weights",
    shorter_than_told: "fewer numbers than the tensors need",
    many_dimensions: "impossible shape",
    no_numbers: "impossible shape",
    tuples_of_tuples: "a tuple for a str",
    encrypted: "damaged or cut short .*encrypted",
    cut: "damaged or cut short",
    cut_stream: "damaged or cut short",
    cut_stream_early: "damaged or cut short",
    claims_more_bytes_than_memory: r"not plain weights \(too long\)",
    no_file_of_torch: "damaged or cut short|not plain weights",
    no_dictionary: "no dictionary of tensors",
    compressed: "compressed numbers",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=list(map(str, range(len(DAMAGES)))))
def test_damage_is_one_clear_error_and_nothing_is_written(folder, tmp_path, damage):
    damage(folder / "pytorch_model.bin", state_of(tensors_of(folder)))
    there = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=DAMAGES[damage]) as raised:
        convert.convert(str(folder), str(tmp_path / "out"), "t5x")
    assert "\n" not in str(raised.value)
    assert sorted(tmp_path.iterdir()) == there


@pytest.mark.slow
def test_random_damage_is_never_a_traceback(folder):
    path = folder / "pytorch_model.bin"
    state = state_of(tensors_of(folder))
    rng = np.random.default_rng(0)
    refused = 0
    for kind in WRITERS:
        program = bytearray(pickled(state, StreamPickler if kind == "stream" else Pickler))
        for _ in range(150):
            damaged = bytearray(program)
            for _ in range(rng.choice([1, 1, 3, 30])):
                damaged[rng.integers(len(damaged))] = rng.integers(256)
            WRITERS[kind](path, state, bytes(damaged))
            try:
                for tensor in torch_file.read(path).values():
                    tensor.read()
            except UserError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 100


def test_a_missing_shard_is_named(folder: pathlib.Path):
    tensors_of(folder)
    index = {"weight_map": {"shared.weight": "pytorch_model-1.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"pytorch_model-1\.bin: missing"):
        hf.read(str(folder))
