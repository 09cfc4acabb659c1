"""Divides a study's work among machines that share a STUDY_DIR: claim files with expiry.

A claim on NAME is the file claims/NAME.0, which holds its owner's name; of several processes that
make it at the same time one succeeds. Every owner touches claims/OWNER.alive again and again. When
that file is gone, or untouched for as long as a claim lasts, another process may make
claims/NAME.1, and so on: the highest number holds. Who gives a claim up makes the next number, with
no owner in it, and removes the lower ones: the highest number only rises. A file that a slow
process makes below it is no claim. Ages are differences of two times of the file system, so the
machines' clocks may differ.

In a bucket the files are objects: one of several creations succeeds by the service's precondition,
an object is touched by writing it anew, and its times are the service's, in whole seconds.
"""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from sbs_jax.utils import buckets
from sbs_jax.utils.files import atomic_writer, write_lines
from sbs_jax.utils.paths import is_remote

FOLDER = "claims"
EXPIRY = 300.0  # seconds; a file system may show a time that is a minute old
_BEATS = 10  # of a claim's life
_ALIVE = "alive"
_NOBODY = ""


class Claims:
    """A context in which this process can claim names; leaving it gives all of them up.

    Args:
        study_dir: shared by all machines.
        expiry: seconds after which a silent owner has lost its claims.
    """

    def __init__(self, study_dir: Path, expiry: float = EXPIRY) -> None:
        self._folder, self._expiry = study_dir / FOLDER, expiry
        self.owner = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Claims":
        buckets.make_folder(self._folder)
        self._touch()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sign(self.owner).unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self._expiry / _BEATS):
            with contextlib.suppress(OSError):  # a share that hangs for a while; then the next beat
                self._touch()

    def _touch(self) -> None:
        sign = self._sign(self.owner)
        if is_remote(sign):
            write_lines(sign, [self.owner])
        else:
            sign.touch()

    def _sign(self, owner: str) -> Path:
        return self._folder / f"{owner}.{_ALIVE}"

    def take(self, name: str) -> bool:
        """Whether this process has the claim now."""
        number, owner = self._latest(name)
        if owner and self._lives(owner):
            return owner == self.owner
        return self._follow(name, number, self.owner)

    def holder(self, name: str) -> str | None:
        """The process that has the claim; None for no living one."""
        _, owner = self._latest(name)
        return owner if owner and self._lives(owner) else None

    def release(self, name: str) -> None:
        """Releases a claim of this process, unless another one has taken it over."""
        number, owner = self._latest(name)
        if owner == self.owner and self._follow(name, number, _NOBODY):
            for each in self._numbers(name):
                if each <= number:
                    self._file(name, each).unlink(missing_ok=True)

    @contextlib.contextmanager
    def held(self, name: str, poll: float = 0.1) -> Iterator[None]:
        """Waits for a claim, and holds it within the block; only for short work."""
        while not self.take(name):
            time.sleep(poll)
        try:
            yield
        finally:
            self.release(name)

    def _latest(self, name: str) -> tuple[int, str]:
        """(Highest number, its owner); (-1, nobody) for a name without a claim."""
        while (number := max(self._numbers(name), default=-1)) >= 0:
            # One that has been given up since is gone, and a higher one is there.
            with contextlib.suppress(FileNotFoundError):
                return number, buckets.read_bytes(self._file(name, number)).decode()
        return number, _NOBODY

    def _numbers(self, name: str) -> list[int]:
        parts = (path.name.rpartition(".") for path in self._folder.iterdir())
        return [int(end) for of, _, end in parts if of == name and end.isdecimal()]

    def _file(self, name: str, number: int) -> Path:
        return self._folder / f"{name}.{number}"

    def _follow(self, name: str, number: int, owner: str) -> bool:
        """Whether the file after `number` could be made for an owner, and is the highest."""
        file = self._file(name, number + 1)
        try:
            with atomic_writer(file, overwrite=False) as opened:
                opened.write(owner)
        except FileExistsError:
            return False
        if max(self._numbers(name), default=-1) <= number + 1:
            return True
        file.unlink(missing_ok=True)  # others had it and gave it up since `number` was read
        return False

    def _lives(self, owner: str) -> bool:
        try:
            now, last = (buckets.version(self._sign(of))[1] for of in (self.owner, owner))
        except FileNotFoundError:
            return owner == self.owner
        return (now - last) / 1e9 < self._expiry
