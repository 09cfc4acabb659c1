"""Where a dataset's records come from: JSONL files, a function, or a SeqIO source."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sbs_jax.datasets import annotations as teacher_outputs
from sbs_jax.datasets.records import Record, check_types, read_jsonl, unique
from sbs_jax.datasets.splits import SPLITS
from sbs_jax.errors import OF_USERS_CODE, UserError, of_users_code
from sbs_jax.utils import buckets, jsonl

Read = Callable[[str], Iterable[Record]]

_ANNOTATE = "sbs annotate makes such records"
_SUFFIXES = (".jsonl", ".jsonl.gz")


@runtime_checkable
class Source(Protocol):
    """The records of one dataset, by split name."""

    def read(self, split: str) -> Iterator[Record]:
        """Streams the records in file order."""
        ...

    def count(self, split: str) -> int:
        """How many records `read` gives."""
        ...

    def fingerprint(self, split: str) -> str:
        """Changes when any record does."""
        ...

    def teacher_hint(self) -> str:
        """How records without teacher outputs get them, for errors."""
        ...


@dataclasses.dataclass(frozen=True)
class JsonlFolder:
    """FOLDER/SPLIT.jsonl or FOLDER/SPLIT.jsonl.gz.

    Attributes:
        name: of the dataset, for errors.
        folder: called at every use, so that the data folder can be chosen late.
        hint: what to do when the data are missing; ``{root}`` becomes the folder above.
        annotations: name of a file in the folder with teacher outputs, joined to the records by
            id and, where they name one, by split (see `annotations`); None for none.
    """

    name: str
    folder: Callable[[], Path]
    hint: str
    annotations: str | None = None

    def path(self, split: str) -> Path:
        """The split's file. Raises UserError, saying how to get the data, if it is missing."""
        path = self._existing(split)
        if path is None:
            folder = self.folder()
            hint = self.hint.format(root=folder.parent)
            raise UserError(
                f"{self.name}/{split}: no data, {folder / split}.jsonl is missing"
                f"{_what_lies_there(folder, split)}; {hint}"
            )
        return path

    def _existing(self, split: str) -> Path | None:
        paths = (self.folder() / f"{split}{suffix}" for suffix in _SUFFIXES)
        return next((path for path in paths if path.is_file()), None)

    def annotations_path(self) -> Path | None:
        """The file of teacher outputs, or None without one."""
        path = self.folder() / self.annotations if self.annotations else None
        return path if path and path.is_file() else None

    def read(self, split: str) -> Iterator[Record]:
        """Streams the records in file order, each with its teacher outputs."""
        path, annotations = self.path(split), self.annotations_path()
        if annotations is None:
            return read_jsonl(path)
        files = {name: file for name in SPLITS if (file := self._existing(name))}
        outputs = teacher_outputs.read(annotations)
        teacher_outputs.check(outputs, files)
        return teacher_outputs.join(read_jsonl(path), outputs, split)

    def count(self, split: str) -> int:
        """The number of lines that are not blank."""
        return _count_lines(*_version(self.path(split)))

    def fingerprint(self, split: str) -> str:
        digest = _digest(*_version(self.path(split)))
        annotations = self.annotations_path()
        return f"{digest}+{_digest(*_version(annotations))}" if annotations else digest

    def teacher_hint(self) -> str:
        if not self.annotations:
            return _ANNOTATE
        return (
            f"put the teacher's outputs in {self.folder() / self.annotations}, one JSON object "
            "per line with id, rationale and label"
        )


def _content(record: Record) -> tuple:
    """All fields; without `rationales` where there are none, as before records had them."""
    content = dataclasses.astuple(record)
    return content if record.rationales else content[:-1]


class Function:
    """Records given by a function of the split's name.

    The function is called again for every pass and must give the same records each time; their
    number and a hash of their content are taken once per process.
    """

    def __init__(self, name: str, function: Read) -> None:
        self._name = name
        self._function = function
        self._known: dict[str, tuple[int, str]] = {}

    def read(self, split: str) -> Iterator[Record]:
        """Streams the records in the function's order."""
        return unique(functools.partial(self._rows, split))

    def _rows(self, split: str) -> Iterator[tuple[str, Record]]:
        for number, record in enumerate(self._examples(split)):
            where = f"{self._name}/{split}: example {number}"
            if not isinstance(record, Record):
                raise UserError(
                    f"{where} became {type(record).__name__}, not a Record; "
                    "return sbs_jax.datasets.Record(...)"
                )
            check_types(record, where)
            yield where, record

    def _examples(self, split: str) -> Iterator[Any]:
        """What the function returns; an error that it raises becomes one line."""
        number = 0
        try:
            for number, example in enumerate(self._function(split), start=1):  # noqa: B007
                yield example
        except (UserError, GeneratorExit):
            raise
        except OF_USERS_CODE as error:
            raise UserError(
                f"{self._name}/{split}: example {number}: its function raises "
                f"{of_users_code(error)}"
            ) from error

    def count(self, split: str) -> int:
        return self._scan(split)[0]

    def fingerprint(self, split: str) -> str:
        return self._scan(split)[1]

    def teacher_hint(self) -> str:
        return _ANNOTATE

    def _scan(self, split: str) -> tuple[int, str]:
        if split not in self._known:
            count, digest = 0, hashlib.sha256()
            for record in self.read(split):
                count += 1
                digest.update(json.dumps(_content(record)).encode())
            self._known[split] = (count, digest.hexdigest())
        return self._known[split]


def from_seqio(
    name: str, source: Any, to_record: Callable[[Mapping[str, Any]], Record]
) -> Function:
    """Records of a ``seqio.DataSource`` (a TFDS dataset, for one), in its unshuffled order.

    Args:
        source: a seqio.DataSource.
        to_record: makes a record of one example, a dict of numpy values; text comes as bytes.
    """

    def read(split: str) -> Iterator[Record]:
        if split not in source.splits:
            known = ", ".join(source.splits)
            raise UserError(f"{name}/{split}: its SeqIO source has no such split, only {known}")
        examples = source.get_dataset(split=split, shuffle=False)
        return map(to_record, examples.as_numpy_iterator())

    return Function(name, read)


def _what_lies_there(folder: Path, split: str) -> str:
    """Names the files of other formats from which the missing one could be made."""
    others = sorted(file.name for file in folder.glob(f"{split}*") if file.is_file())
    return f" ({', '.join(others[:3])} is not read: JSONL only)" if others else ""


def _version(path: Path) -> tuple[Path, int, int]:
    return path, *buckets.version(path)


@functools.lru_cache(maxsize=64)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=64)
def _count_lines(path: Path, size: int, mtime_ns: int) -> int:
    del size, mtime_ns
    with jsonl.opened(path) as file:
        return sum(1 for line in file if line.strip())
