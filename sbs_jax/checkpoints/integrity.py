"""Writes and verifies checksums of a checkpoint's files.

Orbax notices a missing or shortened file, but a flipped bit inside an array is restored without a
word (tried on 0.12.8, every file of a checkpoint). So the sizes and CRC-32s of all files travel
with them. Files at the top of the folder are left out: Orbax still writes its time stamp there.
"""

import json
import zlib

from sbs_jax.utils.buckets import AnyPath

_NAME = "checksums.json"
_CHUNK = 2**22


def write(folder: AnyPath) -> None:
    """Writes the checksums of every file in a subfolder of `folder` into `folder`."""
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    sums = {path.relative_to(folder).as_posix(): _checksum(path) for path in files}
    (folder / _NAME).write_text(json.dumps(sums), encoding="utf-8")


def recorded(folder: AnyPath) -> bool:
    """Whether `folder` has checksums; checkpoints that other software wrote have none."""
    return (folder / _NAME).is_file()


def damage(folder: AnyPath, share: int = 0, shares: int = 1) -> str | None:
    """What is wrong with the files of `folder`, or None.

    Args:
        share: of `shares` hosts that divide the reading, which one this is.
    """
    try:
        sums = json.loads((folder / _NAME).read_text(encoding="utf-8"))
        expected = [(name, size, crc) for name, (size, crc) in sorted(sums.items())]
    except (OSError, ValueError, TypeError, AttributeError):
        return f"{_NAME} cannot be read"
    for name, size, crc in expected[share::shares]:
        try:
            actual_size, actual_crc = _checksum(folder / name)
        except OSError as error:
            return f"{name}: {error.strerror}"
        if actual_size != size:
            return f"{name} has {actual_size} bytes instead of {size}"
        if actual_crc != crc:
            return f"{name} has other content than was written"
    return None


def _checksum(path: AnyPath) -> tuple[int, int]:
    """(bytes, CRC-32)."""
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
            crc = zlib.crc32(chunk, crc)
    return size, crc
