"""Reads files inside a zip or a folder without unpacking to disk.

Members are opened by the exact names that the archive lists, and never read beyond a bound, so a
hostile archive can neither write a file nor fill the memory.
"""

import contextlib
import hashlib
import lzma
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from sbs_jax.errors import UserError

# What zipfile raises for damage, encryption or an unknown compression, besides OSError.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,
    ValueError,
)


class Archive:
    """A zip file or a folder, and the names of the files in it.

    Args:
        path: the zip or folder.
        patterns: glob patterns, relative to the folder, of the files that matter; only a folder
            needs them, so that a large one is not walked.

    Attributes:
        path: as given.
        names: sorted names, ``/`` between their parts.

    Raises UserError if `path` is missing or neither a folder nor a zip.
    """

    def __init__(self, path: str | os.PathLike[str], patterns: tuple[str, ...]) -> None:
        self.path = Path(path)
        self._zipped = not self.path.is_dir()
        if self._zipped:
            with self._zip() as archive:
                members = {m.filename: (m.file_size, m.CRC) for m in archive.infolist()}
            # Without ZipInfo.is_dir, which fails at an empty name.
            self._stamps = {n: stamp for n, stamp in members.items() if not n.endswith("/")}
        else:
            paths = {file for pattern in patterns for file in self.path.glob(pattern)}
            files = {file.relative_to(self.path).as_posix(): file.stat() for file in paths}
            self._stamps = {name: (s.st_size, s.st_mtime_ns) for name, s in files.items()}
        self.names = sorted(self._stamps)

    def where(self, name: str) -> str:
        """How messages call a member."""
        return f"{self.path}/{name}"

    def fingerprint(self, names: list[str]) -> str:
        """A digest of the named files: of size and CRC in a zip, of size and time in a folder."""
        stamps = sorted((name, *self._stamps[name]) for name in names)
        return hashlib.sha256(repr(stamps).encode()).hexdigest()

    def lines(self, name: str, max_line: int) -> Iterator[tuple[str, str]]:
        """Streams (``path/name:number``, line) of a text file, blank lines left out.

        Raises UserError (with file and line) for a line longer than `max_line` bytes or not UTF-8.
        """
        with self._open(name) as file:
            number = 0
            while line := self._guarded(name, file.readline, max_line + 1):
                number += 1
                where = f"{self.where(name)}:{number}"
                if len(line) > max_line:
                    raise UserError(f"{where}: longer than {max_line} bytes; split or delete it")
                text = _decode(line, where)
                if text.strip():
                    yield where, text

    def read(self, name: str, max_bytes: int) -> str:
        """The text of one file; UserError where it is longer than `max_bytes` or not UTF-8."""
        with self._open(name) as file:
            content = self._guarded(name, file.read, max_bytes + 1)
        if len(content) > max_bytes:
            raise UserError(f"{self.where(name)}: larger than the {max_bytes} bytes accepted")
        return _decode(content, self.where(name))

    @contextlib.contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        with contextlib.ExitStack() as stack:
            try:
                if self._zipped:
                    file = stack.enter_context(stack.enter_context(self._zip()).open(name))
                else:
                    file = stack.enter_context((self.path / name).open("rb"))
            except (*_DAMAGE, OSError) as error:
                raise self._unreadable(name, error) from None
            yield file

    def _guarded(self, name: str, read: Callable[[int], bytes], size: int) -> bytes:
        try:
            return read(size)
        except (*_DAMAGE, OSError) as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: Exception) -> UserError:
        return UserError(
            f"{self.where(name)}: cannot be read ({error}); the archive may be damaged"
        )

    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except OSError as error:
            problem = f"cannot be read ({error.strerror}); check the path"
        except _DAMAGE:
            problem = "is no folder and no complete zip file; download it again"
        raise UserError(f"{self.path}: {problem}")


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text ({error.reason})") from None
