"""Files that are complete or absent, and locks that end with their process.

In a bucket an object is complete or absent by itself, and a lock is an object (`bucket_lock`).
"""

import contextlib
import errno
import fcntl
import io
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from sbs_jax.errors import UserError
from sbs_jax.utils import bucket_lock, buckets
from sbs_jax.utils.paths import is_remote

_UPLOAD_SECONDS = 60.0


def _partial(path: Path) -> Path:
    """A hidden, unique name in the same folder, so that the rename is atomic."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


@contextlib.contextmanager
def atomic_writer(
    path: str | os.PathLike[str], mode: str = "w", overwrite: bool = True
) -> Iterator[IO[Any]]:
    """Opens a file that takes its name only if the block ends without an exception.

    Args:
        path: of the file, or a `gs://` address.
        mode: "w" (UTF-8 text) or "wb".
        overwrite: replace an existing file. If False, one of several processes that write at the
            same time succeeds.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        OSError: the file cannot be written; nothing is left behind.
    """
    if is_remote(path):
        with _object_writer(path, mode, overwrite) as file:
            yield file
        return
    target = Path(path)
    partial = _partial(target)
    try:
        with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
        if overwrite:
            partial.replace(target)
        else:
            os.link(partial, target)  # unlike a rename it fails if the name is taken
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _object_writer(path: str | os.PathLike[str], mode: str, overwrite: bool) -> Iterator[IO[Any]]:
    """Keeps what is written in memory: gcsfs would upload an unfinished file as it closes it."""
    with io.BytesIO() if "b" in mode else io.StringIO() as content:
        yield content
        value = content.getvalue()
        data = value if isinstance(value, bytes) else value.encode()
    try:
        if overwrite:
            buckets.place(path).write_bytes(data)
        else:
            buckets.create(buckets.place(path), data)
    except FileExistsError:
        raise
    except Exception as error:  # gcsfs, aiohttp and google.auth have no common base
        raise OSError(errno.EIO, buckets.reason(error), os.fspath(path)) from error


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Writes text, which is complete or absent; lines bring their line feeds."""
    with atomic_writer(path) as file:
        file.writelines(lines)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes bytes, which are complete or absent."""
    with atomic_writer(path, "wb") as file:
        file.write(content)


class GrowingFile:
    """A text file that grows line by line.

    An object of a bucket cannot grow: its lines are kept in memory, and the object is written anew
    once a minute and at `flush`.

    Args:
        path: of the file.
        lines: what it holds already, with line feeds.
    """

    def __init__(self, path: Path, lines: Iterable[str] = ()) -> None:
        self._path = path
        self._kept = list(lines) if is_remote(path) else None
        self._written, self._saved = len(self._kept or ()), time.monotonic()

    def append(self, line: str) -> None:
        """Adds a line, with its line feed."""
        if self._kept is None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
            return
        self._kept.append(line)
        if time.monotonic() - self._saved > _UPLOAD_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Makes sure that every line is in the bucket; a local file has them already."""
        if self._kept is not None and self._written < len(self._kept):
            write_lines(self._path, self._kept)
            self._written, self._saved = len(self._kept), time.monotonic()


@contextlib.contextmanager
def scratch_folder(destination: Path) -> Iterator[Path]:
    """A path next to `destination` to make a folder at and rename; removed after the block."""
    partial = _partial(destination)
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(destination: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to make a folder at, renamed to `destination` if the block ends without an exception.

    Raises:
        UserError: the destination exists or cannot be written.
    """
    target = Path(destination)
    if target.exists():
        raise UserError(f"{destination}: already exists; choose another folder")
    try:
        with scratch_folder(target) as partial:
            yield partial
            partial.rename(target)
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror})") from None


@contextlib.contextmanager
def flock(descriptor: int, busy: str) -> Iterator[None]:
    """Holds an exclusive lock on an open file or folder; it ends with the process at the latest.

    Raises:
        UserError: another process holds it; the message is `busy`.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(busy) from None
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Reserves a folder for this process; the lock is on the folder and leaves no file.

    Args:
        folder: which exists, or one of a bucket (see `bucket_lock`).
        name: of the setting, for the message.

    Raises:
        UserError: another process works in the folder.
    """
    if is_remote(folder):
        with bucket_lock.held(os.fspath(folder), name):
            yield
        return
    busy = f"{name} {folder}: another process is working there; wait for it, or choose another"
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with flock(descriptor, f"{busy} folder"):
            yield
    finally:
        os.close(descriptor)
