"""T5X's formats: upstream's own checkpoint, chunks of every kind, Orbax, and damaged ones."""

import gzip
import json
import shutil

import ml_dtypes
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers import made_checkpoints as made

from sbs_jax.checkpoints import initial, orbax_setup
from sbs_jax.checkpoints.convert import convert
from sbs_jax.checkpoints.formats import t5x, zarr
from sbs_jax.checkpoints.formats.params import nested
from sbs_jax.errors import UserError

EMBEDDING = "target.token_embedder.embedding"


@pytest.fixture
def folder(tmp_path):
    t5x.write(tmp_path / "checkpoint_7", made.checkpoint(step=7))
    return tmp_path / "checkpoint_7"


def index_of(folder):
    return msgpack.unpackb((folder / "checkpoint").read_bytes(), strict_map_key=False)


def write_index(folder, index):
    (folder / "checkpoint").write_bytes(msgpack.packb(index))


def inline(array, dtype=None):
    parts = [array.shape, dtype or array.dtype.name, array.tobytes()]
    return msgpack.ExtType(1, msgpack.packb(parts))


def read_whole(folder):
    return {name: array.read() for name, array in t5x.read(str(folder)).params.items()}


def test_upstreams_checkpoint_is_read_bit_for_bit(shared):
    vector = shared / "vectors" / "t5x_checkpoint"
    state = np.load(vector / "checkpoint_3_full_state.npz")
    params = np.load(vector / "checkpoint_3_params.npz")
    assert (len(state.files), len(params.files)) == (261, 52)
    made.assert_same_params(t5x.read_state(str(vector / "checkpoint_3")), dict(state))
    found = t5x.read(str(vector / "checkpoint_3"))
    made.assert_same_params(found.params, dict(params))
    assert found.step == 3
    assert (found.config.emb_dim, found.config.num_heads, found.config.vocab_size) == (128, 2, 4224)


def test_what_is_written_is_laid_out_as_upstream_does(shared, tmp_path):
    vector = shared / "vectors" / "t5x_checkpoint" / "checkpoint_3"
    copy = tmp_path / "checkpoint_3"
    t5x.write(copy, t5x.read(str(vector)))
    ours, theirs = index_of(copy), index_of(vector)
    assert ours["version"] == theirs["version"] == 3
    assert ours["optimizer"]["target"] == theirs["optimizer"]["target"]
    assert sorted(path.name for path in copy.iterdir()) == sorted(
        path.name for path in vector.iterdir()
    )
    for path in vector.glob("*/.zarray"):
        written = (copy / path.relative_to(vector)).read_text()
        assert json.loads(written) == json.loads(path.read_text())
    before, after = (t5x.read_state(str(place)) for place in (vector, copy))
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert (after[name].shape, after[name].dtype) == (array.shape, array.dtype), name
        if "param_states" in name:
            assert not after[name].read().any()
    assert after["state/step"].read() == 3


@pytest.mark.parametrize(
    ("shape", "factored"),
    [
        ((4224, 128), {"v_row": (128,), "v_col": (4224,)}),
        ((128, 4224), {"v_row": (128,), "v_col": (4224,)}),
        ((128, 128), {"v_row": (128,), "v_col": (128,)}),
        ((4224, 127), {"v": (4224, 127)}),
        ((512,), {"v": (512,)}),
        ((12, 32), {"v": (12, 32)}),
    ],
)
def test_adafactor_slots_follow_upstreams_rule(shape, factored):
    unused = dict.fromkeys(("m", "v", "v_row", "v_col"), (1,))
    assert t5x.slot_shapes(shape) == unused | factored


@pytest.mark.parametrize("config", [made.UNTIED, made.TIED], ids=["untied", "tied"])
def test_what_is_written_is_read_back(tmp_path, config):
    source = made.checkpoint(config, step=12)
    t5x.write(tmp_path / "checkpoint_12", source)
    found = t5x.read(str(tmp_path / "checkpoint_12"))
    made.assert_same_params(found.params, source.params)
    assert (found.config, found.step) == (config, 12)


def write_zarr(folder, array, chunks, dtype, separator="."):
    """By TensorStore, an independent writer: full-size edge chunks."""
    import tensorstore

    spec = {
        "driver": "zarr",
        "kvstore": {"driver": "file", "path": str(folder)},
        "metadata": {
            "shape": array.shape,
            "chunks": chunks,
            "dtype": dtype,
            "compressor": {"id": "gzip", "level": 1},
            "dimension_separator": separator,
        },
    }
    tensorstore.open(spec, create=True, delete_existing=True).result().write(array).result()


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"), [("<f4", np.float32), ("bfloat16", ml_dtypes.bfloat16)]
)
@pytest.mark.parametrize("chunks", [(384, 16), (100, 7), (384, 5), (1, 16), (500, 16)])
def test_many_chunks_with_ragged_edges(folder, chunks, dtype, numpy_dtype, separator):
    values = np.random.default_rng(1).normal(size=(384, 16)).astype(numpy_dtype)
    write_zarr(folder / EMBEDDING, values, chunks, dtype, separator)
    found = read_whole(folder)["token_embedder/embedding"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.astype(np.float32))


def test_large_arrays_are_written_in_chunks_by_upstreams_rule(tmp_path, monkeypatch):
    assert zarr.chunk_shape((32128, 768), 4) == (16064, 768)  # base, as published
    assert zarr.chunk_shape((384, 16), 4) == (384, 16)
    monkeypatch.setattr(zarr, "_CHUNK_BYTES", 1000)
    source = made.checkpoint()
    t5x.write(tmp_path / "checkpoint_0", source)
    assert len(list((tmp_path / "checkpoint_0" / EMBEDDING).iterdir())) > 3
    made.assert_same_params(t5x.read(str(tmp_path / "checkpoint_0")).params, source.params)


def test_bfloat16_of_version_2_is_stored_as_uint16(folder):
    values = np.random.default_rng(1).normal(size=(384, 16)).astype(ml_dtypes.bfloat16)
    scale = np.arange(16).astype(ml_dtypes.bfloat16)
    write_zarr(folder / EMBEDDING, values.view(np.uint16), (100, 16), "<u2")
    index = index_of(folder)
    index["version"] = 2
    index["optimizer"]["target"]["decoder"]["decoder_norm"]["scale"] = inline(scale.view(np.uint16))
    write_index(folder, index)
    found = read_whole(folder)
    np.testing.assert_array_equal(found["token_embedder/embedding"], values.astype(np.float32))
    np.testing.assert_array_equal(found["decoder/decoder_norm/scale"], np.arange(16))


def test_old_indexes_keep_the_path_beside_the_driver(folder):
    expected = read_whole(folder)
    index = index_of(folder)
    index["optimizer"]["target"]["token_embedder"]["embedding"] = {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {"driver": "gcs", "bucket": "t5x-dummy-bucket"},
        "path": f"{EMBEDDING}/",
        "metadata": {"shape": [384, 16]},
    }
    write_index(folder, index)
    name = "token_embedder/embedding"
    np.testing.assert_array_equal(read_whole(folder)[name], expected[name])


def test_an_index_that_holds_everything_is_read(folder):
    """Flax cuts an array in pieces when it exceeds msgpack's limits."""
    expected = read_whole(folder)
    index = index_of(folder)
    target = index["optimizer"]["target"]
    target["decoder"]["decoder_norm"]["scale"] = inline(expected["decoder/decoder_norm/scale"])
    flat = expected["token_embedder/embedding"].reshape(-1)
    target["token_embedder"]["embedding"] = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 384, "1": 16},
        "chunks": {"0": inline(flat[:4000]), "1": inline(flat[4000:])},
    }
    write_index(folder, index)
    shutil.rmtree(folder / EMBEDDING)
    found = read_whole(folder)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_bucket_is_read_like_a_folder(folder):
    """gs:// addresses go through TensorStore's key-value stores; file:// is one of them."""
    local, bucket = t5x.read(str(folder)), t5x.read(f"file://{folder}")
    made.assert_same_params(bucket.params, local.params)
    with pytest.raises(UserError, match="no file 'checkpoint'"):
        t5x.read(f"file://{folder}/nowhere")
    with pytest.raises(UserError, match=r"only local folders and gs://"):
        t5x.read("https://example.invalid/checkpoint_0")


def cut_chunk(folder):
    chunk = folder / EMBEDDING / "0.0"
    chunk.write_bytes(chunk.read_bytes()[:-20])


def break_gzip(folder):
    chunk = folder / EMBEDDING / "0.0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 0xFF
    chunk.write_bytes(bytes(data))


def short_content(folder):
    (folder / EMBEDDING / "0.0").write_bytes(gzip.compress(b"\0" * 100))


def endless_content(folder):
    (folder / EMBEDDING / "0.0").write_bytes(gzip.compress(b"\0" * 50_000_000))


def no_chunk(folder):
    (folder / EMBEDDING / "0.0").unlink()


def no_array(folder):
    shutil.rmtree(folder / EMBEDDING)


def _meta(folder, **changes):
    path = folder / EMBEDDING / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def huge_shape(folder):
    _meta(folder, shape=[10**12, 10**6], chunks=[10**12, 10**6])


def negative_shape(folder):
    _meta(folder, shape=[-384, 16])


def countless_chunks(folder):
    _meta(folder, shape=[10**9, 2], chunks=[1, 1])


def no_chunk_size(folder):
    _meta(folder, chunks=[0, 16])


def other_shape(folder):
    _meta(folder, shape=[380, 16])


def objects(folder):
    _meta(folder, dtype="|O")


def other_compressor(folder):
    _meta(folder, compressor={"id": "blosc"})


def no_json(folder):
    (folder / EMBEDDING / ".zarray").write_text("{")


def cut_index(folder):
    index = folder / "checkpoint"
    index.write_bytes(index.read_bytes()[:-100])


def deep_index(folder):
    (folder / "checkpoint").write_bytes(b"\x81\xa1a" * 100_000 + b"\xc0")


def no_index(folder):
    (folder / "checkpoint").write_bytes(msgpack.packb([1, 2, 3]))


def _replace_scale(folder, leaf):
    index = index_of(folder)
    index["optimizer"]["target"]["decoder"]["decoder_norm"]["scale"] = leaf
    write_index(folder, index)


def huge_inline(folder):
    parts = msgpack.packb([[10**12, 10**6], "float32", b""])
    _replace_scale(folder, msgpack.ExtType(1, parts))


def inline_objects(folder):
    _replace_scale(folder, inline(np.zeros(2, np.float32), "object"))


def inline_short(folder):
    parts = msgpack.packb([[16], "float32", b"1234"])
    _replace_scale(folder, msgpack.ExtType(1, parts))


def bytes_(folder):
    _replace_scale(folder, inline(np.zeros(16, np.uint8)))


def a_text(folder):
    _replace_scale(folder, "text")


def integers(folder):
    _replace_scale(folder, inline(np.zeros(16, np.int32)))


def no_decoder(folder):
    index = index_of(folder)
    del index["optimizer"]["target"]["decoder"]["decoder_norm"]
    write_index(folder, index)


def another_name(folder):
    index = index_of(folder)
    index["optimizer"]["target"]["decoder"]["extra"] = inline(np.zeros(3, np.float32))
    write_index(folder, index)


DAMAGES = {
    cut_chunk: "embedding/0.0: cut short",
    break_gzip: "embedding/0.0: damaged",
    short_content: "unpacks to a size other than 24576 bytes",
    endless_content: "unpacks to a size other than 24576 bytes",
    no_chunk: "embedding/0.0: missing",
    no_array: "embedding/.zarray: missing",
    huge_shape: "impossible shape",
    negative_shape: "impossible shape",
    countless_chunks: "impossible chunks",
    no_chunk_size: "impossible shape",
    other_shape: r"the index says \[384, 16\], the array is \[380, 16\]",
    objects: "stored in a way T5X does not write",
    other_compressor: "stored in a way T5X does not write",
    no_json: "not the description of a zarr array",
    cut_index: "checkpoint: damaged",
    deep_index: "checkpoint: damaged",
    no_index: "not the index of a T5X checkpoint",
    huge_inline: r"checkpoint: damaged.*\(ValueError\)",
    inline_objects: "checkpoint: damaged",
    inline_short: r"checkpoint: damaged.*\(ValueError\)",
    bytes_: "an array of uint8",
    a_text: "neither an array nor",
    integers: "decoder_norm/scale is int32",
    no_decoder: r"1 missing \(decoder/decoder_norm/scale\); none unknown",
    another_name: r"none missing; 1 unknown \(decoder/extra\)",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_one_clear_error_and_nothing_is_written(folder, tmp_path, damage):
    damage(folder)
    with pytest.raises(UserError, match=DAMAGES[damage]) as raised:
        convert(str(folder), str(tmp_path / "out"), "sbs")
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


@pytest.mark.parametrize("path", ["../secret/", "/etc/", "a/../../secret", "..", "", "./"])
def test_a_path_never_leads_out_of_the_checkpoint(folder, path):
    shutil.copytree(folder / EMBEDDING, folder.parent / "secret")
    index = index_of(folder)
    spec = index["optimizer"]["target"]["token_embedder"]["embedding"]
    spec["kvstore"]["path"] = path
    write_index(folder, index)
    with pytest.raises(UserError, match=r"leads out of the checkpoint|neither an array"):
        t5x.read(str(folder))


@pytest.fixture
def orbax_folder(tmp_path):
    """As T5X writes by default: an Orbax folder ``state`` in checkpoint_STEP."""
    source = made.checkpoint(step=7)
    params = nested({name: array.read() for name, array in source.params.items()})
    slots = {"1": {"mu": params, "count": np.int32(7)}}
    tree = {"target": params, "state": {"step": np.int32(7), "param_states": slots}}
    orbax_setup.silence_orbax()
    ocp.PyTreeCheckpointer().save(tmp_path / "checkpoint_7" / "state", tree)
    return tmp_path / "checkpoint_7"


def test_what_t5x_writes_through_orbax_is_read(orbax_folder):
    found = initial.find(str(orbax_folder))
    assert (found.kind, found.step, found.config) == ("t5x", 7, made.UNTIED)
    made.assert_same_params(found.params, made.checkpoint().params)


def test_a_damaged_orbax_array_of_t5x_is_named(orbax_folder):
    data = max((orbax_folder / "state").rglob("*"), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[:100])
    params = initial.find(str(orbax_folder)).params
    with pytest.raises(UserError, match=rf"{orbax_folder}/state: .*OUT_OF_RANGE"):
        for array in params.values():
            array.read()
