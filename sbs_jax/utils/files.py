"""Files that are complete or absent, and locks that end with their process."""

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from sbs_jax.errors import UserError


def _partial(path: Path) -> Path:
    """A hidden, unique name in the same folder, so that the rename is atomic."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


@contextlib.contextmanager
def atomic_writer(
    path: str | os.PathLike[str], mode: str = "w", overwrite: bool = True
) -> Iterator[IO[Any]]:
    """Opens a file that takes its name only if the block ends without an exception.

    Args:
        path: of the file.
        mode: "w" (UTF-8 text) or "wb".
        overwrite: replace an existing file. If False, one of several processes that write at the
            same time succeeds.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        OSError: the file cannot be written; nothing is left behind.
    """
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


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """Writes text, which is complete or absent; lines bring their line feeds."""
    with atomic_writer(path) as file:
        file.writelines(lines)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes bytes, which are complete or absent."""
    with atomic_writer(path, "wb") as file:
        file.write(content)


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
        folder: which exists.
        name: of the setting, for the message.

    Raises:
        UserError: another process works in the folder.
    """
    busy = f"{name} {folder}: another process is working there; wait for it, or choose another"
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with flock(descriptor, f"{busy} folder"):
            yield
    finally:
        os.close(descriptor)
