"""Stores every answer of a teacher in append-only JSONL: cache, resume point and audit log in one.

One line per completion::

    {"key": "<sha256 of the request>-<sample>", "id": "17", "sample": 0, "prompt_sha": "...",
     "model": "asked", "model_answered": "...", "params": {...}, "text": "raw completion",
     "finish_reason": "stop", "usage": {"prompt_tokens": 412, "completion_tokens": 48},
     "response_id": "...", "attempts": 1, "time": "2026-11-21T06:45:00+00:00"}

A line that holds no answer (an empty text, a filtered one) counts as none, so the next run asks
again: a failed call that was paid for leaves one, with its ``problem`` and the hash of the request
alone as ``key``; earlier versions kept others. Lines are added with one
unbuffered write each: a killed process loses nothing it had received, and what a crash of the
machine may lose is at most the last `SYNC_EVERY` lines. `usage` is that of the whole call, on the
first of its completions only: the sum over lines is what was paid. ``usage_estimated`` marks a
count that was completed from the texts; ``thoughts`` and ``refusal`` hold what the server gave
apart from the text.

Plain files, because a database over NFS or Lustre is where comparable tools lose their caches
(https://github.com/stanfordnlp/dspy/pull/8843). A folder may hold several journals (one per shard,
or copied from other machines): all are read, the first answer to a key counts.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.teacher import replies, usage
from sbs_jax.utils.files import flock

SYNC_EVERY = 50
NAME = "journal.jsonl"

Row = dict[str, Any]


class Journal:
    """The answers of a folder: `with Journal(folder)` reads, `with writing(folder)` also adds."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        # Key -> (file, offset): half a million texts stay on disk.
        self._places: dict[str, tuple[int, int]] = {}
        self._paths = sorted(self.folder.glob("journal*.jsonl"))
        self._readers: dict[int, Any] = {}
        self.unreadable = 0
        self._spent = [0, 0]
        for number, path in enumerate(self._paths):
            for offset, line in _lines(path):
                self._index(number, offset, line)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _index(self, number: int, offset: int, line: bytes) -> None:
        row = parse_row(line)
        if row is None:
            self.unreadable += bool(line.strip())
            return
        prompt, completion = usage.spent(row)
        self._spent[0] += prompt
        self._spent[1] += completion
        if not replies.problem_of(row):
            self._places.setdefault(row["key"], (number, offset))

    @property
    def spent(self) -> tuple[int, int]:
        """(Prompt, completion) tokens of all calls in the journal."""
        return self._spent[0], self._spent[1]

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def get(self, key: str) -> Row | None:
        """The line of a key, or None where there is no answer yet."""
        place = self._places.get(key)
        if place is None:
            return None
        number, offset = place
        if number not in self._readers:
            self._readers[number] = self._paths[number].open("rb")
        self._readers[number].seek(offset)
        return parse_row(self._readers[number].readline())

    def rows(self) -> Iterator[Row]:
        """All readable lines of all files, repeated keys included."""
        for path in self._paths:
            for _, line in _lines(path):
                row = parse_row(line)
                if row is not None:
                    yield row

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()


class Writer(Journal):
    """A journal that adds to the file `name` of its folder; use `writing`, which locks it."""

    def __init__(self, folder: str | os.PathLike[str], name: str = NAME) -> None:
        self._path = Path(folder) / name
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._end = _repair(self._file)
        super().__init__(folder)
        self._number = self._paths.index(self._path)
        self._unsynced = 0

    def add(self, rows: Iterable[Row]) -> None:
        """Adds the completions of one call, in one write.

        Raises UserError where the disk is full; then the file holds whole lines only.
        """
        lines = [_line(row) for row in rows]
        self._write(b"".join(lines))
        for line in lines:
            self._index(self._number, self._end, line)
            self._end += len(line)
        self._unsynced += len(lines)
        if self._unsynced >= SYNC_EVERY:
            self.sync()

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._end)
            raise UserError(
                f"{self._path}: cannot be written ({error.strerror}); "
                "make room and run the same command again: nothing so far is lost"
            ) from None

    def sync(self) -> None:
        """Makes the lines so far survive a crash of the machine."""
        os.fsync(self._file)
        self._unsynced = 0

    def close(self) -> None:
        self.sync()
        os.close(self._file)
        super().close()


@contextlib.contextmanager
def writing(folder: str | os.PathLike[str], name: str = NAME) -> Iterator[Writer]:
    """Opens the journal for adding, alone: raises UserError where another process has it open."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        _locked(folder / f".{name}.lock"),
        contextlib.closing(Writer(folder, name)) as journal,
    ):
        yield journal


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a+") as file:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        busy = (
            f"{path.parent}: another annotate run (process {owner}) writes here; "
            "wait for it, or give each machine a --shard"
        )
        with flock(file.fileno(), busy):
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def holds_answers(folder: Path) -> bool:
    """Whether a folder's journals hold one answer at least."""
    lines = (line for path in folder.glob("journal*.jsonl") for _, line in _lines(path))
    rows = (row for row in map(parse_row, lines) if row is not None)
    return any(not replies.problem_of(row) for row in rows)


def parse_row(line: bytes) -> Row | None:
    """The line's object, or None where it is no completion.

    A text that is a list of parts, as earlier versions kept it, is read as `replies` reads it.
    """
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get("key"), str):
            return None
        return row if isinstance(row["text"], str) else row | replies.text_of(row["text"])
    except (ValueError, KeyError, RecursionError, replies.Unreadable):
        return None


def _line(row: Row) -> bytes:
    # ASCII: whatever a model emits (lone surrogates, U+2028) stays one line of valid UTF-8.
    return json.dumps(row, ensure_ascii=True).encode() + b"\n"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(Offset, line) of every line of a file."""
    offset = 0
    with path.open("rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)


def _repair(file: int) -> int:
    """Ends a torn last line: keeps it where only the line break is missing, else cuts it off.

    Returns the file's size.
    """
    size = os.fstat(file).st_size
    start = _last_break(file, size)
    if start == size:
        return size
    if parse_row(os.pread(file, size - start, start)) is None:
        os.ftruncate(file, start)
        return start
    os.write(file, b"\n")
    return size + 1


def _last_break(file: int, size: int) -> int:
    """The offset behind the last line break."""
    block = 1 << 16
    end = size
    while end > 0:
        start = max(0, end - block)
        last = os.pread(file, end - start, start).rfind(b"\n")
        if last >= 0:
            return start + last + 1
        end = start
    return 0
