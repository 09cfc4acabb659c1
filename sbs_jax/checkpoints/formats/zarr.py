"""The subset of zarr v2 in T5X checkpoints: one folder per array, gzip chunks, C order.

Own code, though TensorStore reads zarr too: it accepts a chunk whose end is cut off, checksum and
all, as soon as enough numbers came out of it (tried on 0.1.86, also with
``fill_missing_data_reads=False``). Here a chunk that is missing, cut short or of another size is an
error that names the file, and a damaged ``.zarray`` is refused before anything is allocated.
Format: https://zarr.readthedocs.io, specification v2.
"""

import gzip
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from sbs_jax.checkpoints.formats.params import LazyArray
from sbs_jax.errors import UserError

# Reads a file of the checkpoint by its relative name; None if there is none.
Read = Callable[[str], bytes | None]

DTYPES = {
    "<f4": np.dtype(np.float32),
    "<f2": np.dtype(np.float16),
    "<f8": np.dtype(np.float64),
    "<i4": np.dtype(np.int32),
    "<i8": np.dtype(np.int64),
    "<u2": np.dtype(np.uint16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in DTYPES.items()}

# The largest array of a public T5 is mT5 XXL's embedding: 4 GB.
MAX_BYTES = 2**34
_MAX_CHUNKS = 10**6
_CHUNK_BYTES = 64 * 2**20  # T5X's target
_GZIP = {"id": "gzip", "level": 1}


def open_array(read: Read, folder: str, path: str) -> LazyArray:
    """Opens the array in `folder` of the checkpoint at `path`; reads only its description.

    Raises UserError if the description is missing, malformed or absurd.
    """
    where = f"{path}/{folder}/.zarray"
    text = read(f"{folder}/.zarray")
    if text is None:
        raise UserError(f"{where}: missing; the checkpoint is incomplete: copy it again")
    try:
        meta = json.loads(text)
        shape, chunks = (tuple(meta[key]) for key in ("shape", "chunks"))
        compressor, separator = meta["compressor"], meta.get("dimension_separator", ".")
        code, order, filters = meta["dtype"], meta["order"], meta["filters"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{where}: not the description of a zarr array") from None
    dtype = DTYPES.get(code) if isinstance(code, str) else None
    zipped = isinstance(compressor, dict) and compressor.get("id") == "gzip"
    known = compressor is None or zipped
    if not (dtype and known and order == "C" and not filters and separator in (".", "/")):
        raise UserError(
            f"{where}: stored in a way T5X does not write (dtype {code}, compressor {compressor}, "
            f"order {order}, filters {filters})"
        )
    check_shape(shape, dtype, where)
    check_shape(chunks, dtype, where)
    if len(chunks) != len(shape) or math.prod(map(_ceil_div, shape, chunks)) > _MAX_CHUNKS:
        raise UserError(
            f"{where}: impossible chunks {str(list(chunks))[:80]} of shape {list(shape)}"
        )
    return LazyArray(
        shape,
        dtype,
        lambda: _read_array(read, folder, path, shape, chunks, dtype, separator, zipped),
    )


def check_shape(shape: tuple, dtype: np.dtype, where: str) -> None:
    """Raises UserError for what is no shape, or larger than any array of a T5."""
    good = all(type(n) is int and n > 0 for n in shape)
    if not good or math.prod(shape) * dtype.itemsize > MAX_BYTES:
        raise UserError(f"{where}: impossible shape {str(list(shape))[:80]}")


def _read_array(
    read: Read,
    folder: str,
    path: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype,
    separator: str,
    zipped: bool,
) -> np.ndarray:
    array: np.ndarray | None = None
    nbytes = math.prod(chunks) * dtype.itemsize
    for index in itertools.product(*map(range, map(_ceil_div, shape, chunks))):
        name = f"{folder}/{separator.join(map(str, index)) or '0'}"
        data = _inflate(read(name), zipped, nbytes, f"{path}/{name}")
        chunk = np.frombuffer(data, dtype).reshape(chunks)
        if chunks == shape:
            return chunk
        if array is None:  # not before a first chunk proved to be there
            array = np.empty(shape, dtype)
        place = _place(index, chunks, shape)
        array[place] = chunk[tuple(slice(part.stop - part.start) for part in place)]
    assert array is not None, "check_shape refuses empty arrays"
    return array


def _inflate(data: bytes | None, zipped: bool, nbytes: int, where: str) -> bytes:
    """Unpacks a chunk, at most `nbytes` + 1 bytes."""
    if data is None:
        raise UserError(f"{where}: missing; the checkpoint is incomplete: copy it again")
    if zipped:
        inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            data = inflater.decompress(data, nbytes + 1)
        except zlib.error as error:
            raise UserError(f"{where}: damaged ({error}); copy it again") from None
        if not inflater.eof and len(data) <= nbytes:
            raise UserError(f"{where}: cut short; copy it again")
    if len(data) != nbytes:
        raise UserError(f"{where}: unpacks to a size other than {nbytes} bytes; copy it again")
    return data


def write_array(folder: Path, array: np.ndarray) -> dict:
    """Writes an array as T5X does and returns its description, for TensorStore's spec.

    Raises KeyError for a dtype no checkpoint has.
    """
    chunks = chunk_shape(array.shape, array.dtype.itemsize)
    described = {"shape": list(array.shape), "chunks": list(chunks), "compressor": _GZIP}
    meta = {
        **described,
        "dimension_separator": ".",
        "dtype": _CODES[array.dtype],
        "fill_value": None,
        "filters": None,
        "order": "C",
        "zarr_format": 2,
    }
    folder.mkdir()
    (folder / ".zarray").write_text(json.dumps(meta), encoding="utf-8")
    for index in itertools.product(*map(range, map(_ceil_div, array.shape, chunks))):
        chunk = np.ascontiguousarray(array[_place(index, chunks, array.shape)])
        name = ".".join(map(str, index)) or "0"
        data = chunk.reshape(-1).view(np.uint8).data
        (folder / name).write_bytes(gzip.compress(data, compresslevel=1, mtime=0))
    return described


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """T5X's rule: the largest dimension becomes its next smaller divisor until 64 MiB suffice."""
    chunks = list(shape)
    while math.prod(chunks) * itemsize > _CHUNK_BYTES:
        largest = chunks.index(max(chunks))
        chunks[largest] = next(_smaller_divisors(shape[largest], chunks[largest]))
    return tuple(chunks)


def _smaller_divisors(number: int, below: int) -> Iterator[int]:
    return (d for d in range(below - 1, 0, -1) if number % d == 0)


def _place(
    index: tuple[int, ...], chunks: tuple[int, ...], shape: tuple[int, ...]
) -> tuple[slice, ...]:
    """Where a chunk lies in the array; a ragged edge ends with the array."""
    return tuple(
        slice(i * size, min((i + 1) * size, length))
        for i, size, length in zip(index, chunks, shape, strict=True)
    )


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
