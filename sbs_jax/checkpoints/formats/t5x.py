"""Reads T5X's checkpoints, legacy and Orbax; writes legacy ones.

Legacy is a msgpack index and one zarr array per parameter: the public checkpoints
(``gs://t5-data/pretrained_models/t5x/...``) and upstream runs with ``use_orbax=False``. Upstream
T5X is not needed: flax.serialization reads and writes the index. Source of the layout:
``t5x/checkpoints.py``, version 3.
"""

import functools
import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sbs_jax.checkpoints.formats import zarr
from sbs_jax.checkpoints.formats.orbax_arrays import OrbaxFolder
from sbs_jax.checkpoints.formats.params import Checkpoint, LazyArray, as_float32, config_of
from sbs_jax.checkpoints.formats.zarr import Read
from sbs_jax.errors import UserError
from sbs_jax.utils.buckets import AnyPath, can_list, place
from sbs_jax.utils.paths import is_remote

INDEX = "checkpoint"
ORBAX = "state"
_TARGET = "target/"
_VERSION = 3
_UINT16_VERSIONS = (0, 1, 2)  # these store bfloat16 as uint16
_PATIENCE = 600  # seconds for one file of a bucket
_FACTOR_FROM = 128  # Adafactor factors a matrix whose second largest dimension reaches this


def read(path: str) -> Checkpoint:
    """The parameters of a checkpoint folder, local or ``gs://``, without optimizer slots.

    The folder may also hold what T5X writes by default, an Orbax folder ``state``; in a bucket that
    needs gcsfs.

    Raises UserError if the index is damaged, an array's description is, or it is no T5.
    """
    orbax = _orbax(path)
    folder = OrbaxFolder(orbax) if orbax else None
    arrays = folder.arrays if folder else read_state(path)
    params = {
        name.removeprefix(_TARGET): as_float32(array, name, path)
        for name, array in arrays.items()
        if name.startswith(_TARGET)
    }
    step = arrays.get("state/step")
    return Checkpoint(
        kind="t5x",
        path=path,
        params=params,
        config=config_of(params, path),
        step=int(step.read()) if step is not None and step.shape == () else 0,
        read_together=functools.partial(folder.read, _TARGET) if folder else None,
    )


def _orbax(path: str) -> AnyPath | None:
    """The Orbax folder of a checkpoint; None for a legacy one, looked for first in a bucket."""
    if not is_remote(path):
        folder = Path(path).absolute() / ORBAX
    elif not can_list(path) or _bucket(path)(INDEX) is not None:
        return None
    else:
        folder = place(path) / ORBAX
    return folder if folder.is_dir() else None


def read_state(path: str) -> dict[str, LazyArray]:
    """Every array of a checkpoint: ``target/...``, ``state/param_states/...``, ``state/step``."""
    files = _local(Path(path)) if "://" not in path else _bucket(path)
    data = files(INDEX)
    if data is None:
        raise UserError(f"{path}: no file {INDEX!r}, the index of a T5X checkpoint")
    index = _unpack(data, f"{path}/{INDEX}")
    state = index.get("optimizer") if isinstance(index, dict) else None
    if not isinstance(state, dict) or not isinstance(state.get("target"), dict):
        raise UserError(f"{path}/{INDEX}: not the index of a T5X checkpoint")
    version = index.get("version", 0)
    arrays = {}
    for name, leaf in _leaves(state):
        array = _open_leaf(leaf, files, name, path)
        if version in _UINT16_VERSIONS and array.dtype == np.uint16:
            array = _as_bfloat16(array)
        arrays[name] = array
    return arrays


def _as_bfloat16(array: LazyArray) -> LazyArray:
    dtype = np.dtype(ml_dtypes.bfloat16)
    return LazyArray(array.shape, dtype, lambda: array.read().view(dtype))


def _local(folder: Path) -> Read:
    def read_file(name: str) -> bytes | None:
        try:
            return (folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(f"{folder / name}: cannot be read ({error.strerror})") from None

    return read_file


def _bucket(url: str) -> Read:
    """A bucket's files through TensorStore, which comes with Orbax; public ones need no login."""
    import tensorstore

    scheme = url.partition("://")[0]
    # T5X's public buckets are gs://; the other two are what TensorStore can serve locally.
    if scheme not in ("gs", "file", "memory"):
        raise UserError(f"{url}: only local folders and gs:// are read; copy the checkpoint first")
    advice = f"copy it with `gcloud storage cp -r {url} .` and give the folder"
    # Its own default is 32 attempts over minutes.
    context = tensorstore.Context({"gcs_request_retries": {"max_retries": 3}})
    try:
        store = tensorstore.KvStore.open(url.rstrip("/") + "/", context=context).result()
    except ValueError as error:
        raise UserError(f"{url}: cannot be opened ({_reason(error)}); {advice}") from None

    def read_file(name: str) -> bytes | None:
        try:
            result = store.read(name).result(timeout=_PATIENCE)
        except (ValueError, TimeoutError) as error:
            raise UserError(f"{url}/{name}: cannot be read ({_reason(error)}); {advice}") from None
        return result.value if result.state == "value" else None

    return read_file


def _reason(error: Exception) -> str:
    text = str(error).partition(" [")[0].strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _unpack(data: bytes, where: str) -> Any:
    """The index: dictionaries of arrays and of their descriptions."""
    from flax import serialization

    try:
        return serialization.msgpack_restore(data)
    except Exception as error:  # whatever damaged bytes lead to: the reader names no exception
        kind = type(error).__name__
        raise UserError(f"{where}: damaged, or no msgpack index ({kind}); copy it again") from None


def _leaves(tree: Mapping, parents: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(name, leaf) of everything that is no plain dictionary."""
    for key, node in tree.items():
        names = (*parents, str(key))
        if isinstance(node, dict) and "driver" not in node:
            yield from _leaves(node, names)
        elif node is not None:
            yield "/".join(names), node


def _open_leaf(leaf: Any, files: Read, name: str, path: str) -> LazyArray:
    where = f"{path}/{INDEX}: {name}"
    if isinstance(leaf, dict) and "driver" in leaf:
        array = zarr.open_array(files, _folder(leaf, where), path)
        _check_described(leaf, array, where)
        return array
    value = _inline(leaf, where)
    return LazyArray(value.shape, value.dtype, lambda: value)


def _folder(spec: dict, where: str) -> str:
    """The array's folder, below the checkpoint. Driver and bucket are those of the writer."""
    kvstore = spec.get("kvstore")
    name = spec.get("path") or (kvstore.get("path") if isinstance(kvstore, dict) else None)
    if spec["driver"] != "zarr" or not isinstance(name, str):
        raise UserError(f"{where}: neither an array nor the description of one")
    folder = name.rstrip("/")
    unsafe = {"", ".", ".."} & set(folder.split("/")) or "\\" in folder or "\0" in folder
    if unsafe or posixpath.isabs(folder):
        raise UserError(f"{where}: {name!r} leads out of the checkpoint; it is not read")
    return folder


def _check_described(spec: dict, array: LazyArray, where: str) -> None:
    described = spec.get("metadata")
    shape = described.get("shape") if isinstance(described, dict) else None
    if shape is not None and shape != list(array.shape):
        raise UserError(
            f"{where}: the index says {str(shape)[:80]}, the array is {list(array.shape)}"
        )


def _inline(leaf: Any, where: str) -> np.ndarray:
    """An array or a number of the index itself."""
    if not isinstance(leaf, np.ndarray | np.generic | int | float):
        raise UserError(f"{where}: neither an array nor the description of one")
    value = np.asarray(leaf)
    if value.dtype not in zarr.DTYPES.values():
        raise UserError(f"{where}: an array of {value.dtype}, which T5X does not write")
    return value


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint that upstream's ``t5x.train`` starts from with Adafactor.

    Without optimizer slots it refuses a checkpoint, so those of a fresh Adafactor, zeros, are
    written too. One parameter at a time is in memory.

    Args:
        folder: is created; upstream expects the name ``checkpoint_STEP``.
    """
    from flax import serialization

    folder.mkdir(parents=True)
    target: dict = {}
    slots: dict = {}
    for name, array in checkpoint.params.items():
        _put(target, name, _write_array(folder, f"target/{name}", array.read()))
        for slot, shape in slot_shapes(array.shape).items():
            zeros, slot_name = np.zeros(shape, np.float32), f"{name}/{slot}"
            leaf: Any = zeros
            if slot == "v" and shape == array.shape:  # partitioned like its parameter
                leaf = _write_array(folder, f"state/param_states/{slot_name}", zeros)
            _put(slots, slot_name, leaf)
    state = {"step": np.asarray(checkpoint.step, np.int32), "param_states": slots}
    index = {"version": _VERSION, "optimizer": {"target": target, "state": state}}
    (folder / INDEX).write_bytes(serialization.msgpack_serialize(index))


def slot_shapes(shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of T5X's Adafactor slots for a parameter; an unused one is (1,).

    A matrix whose second largest dimension is 128 or more is factored: v_row has its shape without
    the largest axis, v_col without the second largest; of equal ones the later counts as larger.
    """
    slots = {"m": (1,), "v": (1,), "v_row": (1,), "v_col": (1,)}
    order = np.argsort(shape, kind="stable")
    if len(shape) < 2 or shape[order[-2]] < _FACTOR_FROM:
        return {**slots, "v": tuple(shape)}
    largest, second = (int(axis) for axis in (order[-1], order[-2]))
    return {**slots, "v_row": _without(shape, largest), "v_col": _without(shape, second)}


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _write_array(folder: Path, name: str, array: np.ndarray) -> dict:
    """The array's folder, and TensorStore's description of it for the index."""
    path = name.replace("/", ".")
    return {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "metadata": zarr.write_array(folder / path, array),
    }


def _put(tree: dict, name: str, leaf: Any) -> None:
    *parents, last = name.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = leaf
