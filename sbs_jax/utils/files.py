"""A folder that one process works in: a second one is told so at once."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from sbs_jax.errors import UserError


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Inside, the folder is this process's; the lock ends with the process, however that ends.

    The lock is on the folder itself and leaves no file behind.

    Args:
        name: of the setting, for the error.

    Raises:
        UserError: another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{name} {folder}: another process is working there; wait for it, or choose "
                "another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)
