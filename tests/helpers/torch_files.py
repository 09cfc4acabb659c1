"""Files as torch.save writes them, made without torch, and ones it never would."""

import collections
import io
import os
import pickle
import struct
import zipfile

import numpy as np

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001

# What torch writes, made without torch: the pickler puts the names of these in its files.


class FloatStorage:
    pass


class HalfStorage:
    pass


def _rebuild_tensor_v2(*arguments):
    raise AssertionError("never called")


FloatStorage.__module__ = HalfStorage.__module__ = "torch"
_rebuild_tensor_v2.__module__ = "torch._utils"


class Storage:
    def __init__(self, key, array):
        self.key, self.array = key, np.ascontiguousarray(array).reshape(-1)


class Tensor:
    def __init__(self, storage, shape, strides=None, offset=0):
        if strides is None:
            strides = tuple(np.cumprod([1, *shape[:0:-1]])[::-1].tolist())
        self.storage, self.shape, self.strides, self.offset = storage, shape, strides, offset

    def __reduce__(self):
        hooks = collections.OrderedDict()
        arguments = (self.storage, self.offset, self.shape, self.strides, False, hooks)
        return _rebuild_tensor_v2, arguments


class Pickler(pickle._Pickler):
    """Python's own, as torch's: protocol 2, storages by their keys. It looks up no name."""

    view = ()

    def persistent_id(self, value):
        if not isinstance(value, Storage):
            return None
        kind = HalfStorage if value.array.dtype == np.float16 else FloatStorage
        return ("storage", kind, value.key, "cpu", value.array.size, *self.view)

    def save_global(self, value, name=None):
        self.write(pickle.GLOBAL + f"{value.__module__}\n{value.__name__}\n".encode())
        self.memoize(value)


class StreamPickler(Pickler):
    view = (None,)


Pickler.dispatch = {
    **pickle._Pickler.dispatch,
    type: Pickler.save_global,
    type(_rebuild_tensor_v2): Pickler.save_global,
    type(os.mkdir): Pickler.save_global,
}


def pickled(value, kind=Pickler):
    out = io.BytesIO()
    kind(out, protocol=2).dump(value)
    return out.getvalue()


def state_of(tensors):
    state = collections.OrderedDict(
        (name, Tensor(Storage(str(number), array), array.shape))
        for number, (name, array) in enumerate(tensors.items())
    )
    return state


def storages_of(state):
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    return {tensor.storage.key: tensor.storage.array for tensor in tensors}


def write_archive(path, state, program=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(state) if program is None else program)
        archive.writestr("archive/byteorder", "little")
        for key, array in storages_of(state).items():
            archive.writestr(f"archive/data/{key}", array.tobytes())


def write_stream(path, state, program=None):
    """The format before torch 1.6."""
    system = {"protocol_version": VERSION, "little_endian": True, "type_sizes": {"int": 4}}
    storages = storages_of(state)
    parts = [pickled(value) for value in (MAGIC, VERSION, system)]
    parts += [program or pickled(state, StreamPickler), pickled(list(storages))]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    path.write_bytes(b"".join(parts))
