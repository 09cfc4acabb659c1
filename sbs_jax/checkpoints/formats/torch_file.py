"""Reads PyTorch's weight files (``pytorch_model.bin``) without unpickling them.

Such a file holds a pickle, a program whose instructions may call anything. This module
interprets the dozen instructions that build dictionaries, tuples and descriptions of tensors and
refuses the rest; the name of a function or class stays a text. So no code in a file can run, and
torch is not needed. (``torch.load(weights_only=True)`` is the library's own way; it needs torch
and the whole file in memory.)

Formats: the zip archive of torch 1.6 and later, and the stream of pickles and numbers before it, in
which models of 2020, T5 v1.1 and mT5 among them, may have been saved;
sources: ``torch/serialization.py``, ``torch/_utils.py`` and the standard library's ``pickletools``.
"""

import dataclasses
import io
import math
import pickletools
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from sbs_jax.checkpoints.formats.params import LazyArray
from sbs_jax.errors import UserError

_MAGIC = 0x1950A86A20F9469CFC6C  # opens a file of the older format
_MOST_OPCODES, _MOST_BYTES = 10**6, 2**26  # of the description; mT5 XXL's has 20,000 opcodes

_DTYPES = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch DoubleStorage": np.dtype("<f8"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
}
_TENSOR, _PARAMETER = "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"
_DICT = "collections OrderedDict"
_KNOWN = {_TENSOR, _PARAMETER, _DICT, *_DTYPES}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS_AND_TEXTS = {
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINUNICODE",
    "SHORT_BINUNICODE",
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()
_MOST_DIMENSIONS, _MOST_NUMBERS = 8, 2**40  # of a tensor
# Exceptions on damaged bytes; RuntimeError: an encrypted archive, or one nested too deeply.
_DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError, RuntimeError)


@dataclasses.dataclass(frozen=True)
class _Global:
    """A function or class that the file names: ``module name``. Never imported."""

    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A block of numbers: its key in the file, dtype and count."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A view of a storage; offset and strides count numbers, not bytes."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read(file: Path) -> dict[str, LazyArray]:
    """The tensors of a file by name, to be read one at a time.

    Raises:
        UserError: the file is damaged, or asks for anything besides tensors of numbers.
    """
    try:
        with file.open("rb") as opened:
            archived = opened.read(4) == b"PK\x03\x04"
        tensors, locate = (_open_archive if archived else _open_stream)(file)
        return {name: _lazy(file, tensor, locate) for name, tensor in _checked(tensors)}
    except FileNotFoundError:
        raise UserError(f"{file}: missing; copy the whole folder of the model") from None
    except _Refused as error:
        raise UserError(
            f"{file}: not plain weights ({error}); nothing of it was run: take the model's "
            "safetensors"
        ) from None
    except (*_DAMAGE, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise UserError(f"{file}: damaged or cut short ({reason}); copy it again") from None


class _Refused(Exception):
    """Content that no file of weights has."""


# The number of bytes a storage has, and where they begin in the file.
_Locate = Callable[[_Storage], tuple[int, int]]


def _open_archive(file: Path) -> tuple[Any, _Locate]:
    with zipfile.ZipFile(file) as archive:
        (pickled,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        entries = {entry.filename: entry for entry in archive.infolist()}
        order = f"{folder}byteorder"
        if max(entries[name].file_size for name in {pickled, order} & entries.keys()) > _MOST_BYTES:
            raise _Refused("too long")
        if order in entries and archive.read(order) != b"little":
            raise _Refused("byte order")
        state = _interpret(io.BytesIO(archive.read(pickled)))

    def locate(storage: _Storage) -> tuple[int, int]:
        entry = entries[f"{folder}data/{storage.key}"]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise _Refused("compressed numbers")
        with file.open("rb") as opened:  # its own header says where an entry's bytes begin
            opened.seek(entry.header_offset + 26)
            lengths = np.frombuffer(opened.read(4), "<u2")
        return entry.file_size, entry.header_offset + 30 + int(lengths.sum())

    return state, locate


def _open_stream(file: Path) -> tuple[Any, _Locate]:
    with file.open("rb") as opened:
        stream = _Bounded(opened)
        if _interpret(stream) != _MAGIC:
            raise ValueError("not a file of torch")
        _interpret(stream)  # the version of the format
        system = _of(dict, _interpret(stream))
        if system.get("little_endian") is not True:
            raise _Refused("byte order")
        state = _interpret(stream)
        keys = _of(list, _interpret(stream))
        begin = opened.tell()
    dtypes = {tensor.storage.key: tensor.storage for _, tensor in _checked(state)}
    places = {}
    with file.open("rb") as opened:
        for key in (_of(str, key) for key in keys):
            opened.seek(begin)
            count = int(np.frombuffer(opened.read(8), "<i8")[0])
            size = count * dtypes[key].dtype.itemsize
            places[key] = (size, begin + 8)
            begin += 8 + size
    return state, lambda storage: places[storage.key]


def _checked(state: Any) -> Iterator[tuple[str, _Tensor]]:
    if not isinstance(state, dict):
        raise _Refused("no dictionary of tensors")
    for name, tensor in state.items():
        if not isinstance(tensor, _Tensor):
            raise _Refused(f"{name[:60]!r} is no tensor")
        yield name, tensor


def _lazy(file: Path, tensor: _Tensor, locate: _Locate) -> LazyArray:
    """Raises ValueError for a view that its storage, or the file, does not hold."""
    storage, itemsize = tensor.storage, tensor.storage.dtype.itemsize
    size, begin = locate(storage)
    sizes = (*tensor.shape, *tensor.strides, tensor.offset, storage.count)
    good = all(type(n) is int and 0 <= n < _MOST_NUMBERS for n in sizes) and 0 not in tensor.shape
    if len(sizes) > 2 * _MOST_DIMENSIONS + 2 or not good:
        raise ValueError("impossible shape")
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.strides, strict=True))
    # A view may repeat numbers; weights do not, and a shape beyond the storage costs memory.
    if tensor.offset + last >= storage.count or math.prod(tensor.shape) > storage.count:
        raise ValueError("a tensor larger than its numbers")
    if size != storage.count * itemsize or begin + size > file.stat().st_size:
        raise ValueError("fewer numbers than the tensors need")

    def read_tensor() -> np.ndarray:
        with file.open("rb") as opened:
            opened.seek(begin + tensor.offset * itemsize)
            data = opened.read((last + 1) * itemsize)
        if len(data) != (last + 1) * itemsize:
            raise UserError(f"{file}: damaged or cut short; copy it again")
        strides = [stride * itemsize for stride in tensor.strides]
        return np.ndarray(tensor.shape, storage.dtype, data, strides=strides)

    return LazyArray(tensor.shape, storage.dtype, read_tensor)


class _Bounded:
    """A file read in pieces of bounded size: Python allocates whatever an instruction claims."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self.tell = file, file.tell

    def read(self, size: int) -> bytes:
        if size > _MOST_BYTES:
            raise _Refused("too long")
        return self._file.read(size)

    def readline(self) -> bytes:
        return self._file.readline(_MOST_BYTES)


def _interpret(stream: io.BytesIO | _Bounded) -> Any:
    """Reads a pickle's tensors, dictionaries, tuples, numbers and texts."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    operations = pickletools.genops(stream)  # type: ignore[arg-type]  # read, readline and tell do
    for number, (opcode, argument, _) in enumerate(operations):
        if number > _MOST_OPCODES:
            raise _Refused("too long")
        if opcode.name == "STOP":
            return stack.pop()
        _execute(opcode.name, argument, stack, memo)
    raise ValueError("no end")


def _execute(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    """One instruction. Refuses all others."""
    if name in _NUMBERS_AND_TEXTS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name == "GLOBAL":
        if argument not in _KNOWN:
            raise _Refused(f"it asks for {str(argument)[:80]}")
        stack.append(_Global(argument))
    elif name == "MARK":
        stack.append(_MARK)
    elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
        stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name])
    elif name == "TUPLE":
        stack.append(tuple(_to_mark(stack)))
    elif name in _TUPLES:
        count = _TUPLES[name]
        if len(stack) < count:
            raise IndexError("a tuple of nothing")
        stack[-count:] = [tuple(stack[-count:])]
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "APPENDS":
        items = _to_mark(stack)
        _of(list, stack[-1]).extend(items)
    elif name in ("SETITEM", "SETITEMS"):
        items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else _to_mark(stack)
        # Texts alone: hashing tuples of tuples can take unbounded time.
        names = [_of(str, name) for name in items[::2]]
        _of(dict, stack[-1]).update(zip(names, items[1::2], strict=True))
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_described(function, arguments))
    elif name == "BUILD":  # _metadata of a dictionary of weights: versions of its modules
        stack.pop()
        _of(dict, stack[-1])
    elif name != "PROTO":
        raise _Refused(f"instruction {name}")


def _to_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise _Refused(f"a {type(value).__name__} for a {kind.__name__}")
    return value


def _storage(identifier: Any) -> _Storage:
    kind, storage, key, _, count, *_ = _of(tuple, identifier)
    if kind != "storage" or _of(_Global, storage).name not in _DTYPES:
        raise _Refused("unknown numbers")
    return _Storage(_of(str, key), _DTYPES[storage.name], _of(int, count))


def _described(function: Any, arguments: Any) -> Any:
    """Describes what a call would build; never calls it."""
    name, arguments = _of(_Global, function).name, _of(tuple, arguments)
    if name == _TENSOR:
        storage, offset, shape, strides, *_ = arguments
        _of(_Storage, storage)
        return _Tensor(storage, _of(int, offset), _of(tuple, shape), _of(tuple, strides))
    if name == _PARAMETER:
        return _of(_Tensor, arguments[0])
    if name == _DICT and arguments == ():
        return {}
    raise _Refused(f"a call of {name}")
