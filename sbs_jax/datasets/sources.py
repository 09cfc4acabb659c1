"""Where a dataset's records come from: JSONL files, a function, or a SeqIO source."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sbs_jax.datasets.records import Record, lines, read_jsonl
from sbs_jax.errors import UserError

Read = Callable[[str], Iterable[Record]]

_ANNOTATE = "sbs annotate makes such records"


@runtime_checkable
class Source(Protocol):
    """The files (or what stands for them) of one dataset, by split name."""

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
    """FOLDER/SPLIT.jsonl.

    Attributes:
        name: of the dataset, for errors.
        folder: asked at every use, so that a data folder may be chosen late.
        hint: what to do where the data are missing; ``{root}`` stands for the folder above.
        annotations: name of a file in the folder that holds teacher outputs, joined to every
            split's records by id; None for none.
    """

    name: str
    folder: Callable[[], Path]
    hint: str
    annotations: str | None = None

    def path(self, split: str) -> Path:
        """Raises UserError, saying how to get the data, where the file is missing."""
        path = self.folder() / f"{split}.jsonl"
        if not path.is_file():
            hint = self.hint.format(root=path.parent.parent)
            raise UserError(f"{self.name}/{split}: no data, {path} is missing; {hint}")
        return path

    def annotations_path(self) -> Path | None:
        """The file of teacher outputs, if it is there."""
        path = self.folder() / self.annotations if self.annotations else None
        return path if path and path.is_file() else None

    def read(self, split: str) -> Iterator[Record]:
        records = read_jsonl(self.path(split))
        annotations = self.annotations_path()
        return join(records, read_annotations(annotations)) if annotations else records

    def count(self, split: str) -> int:
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
        for number, record in enumerate(self._function(split)):
            if not isinstance(record, Record):
                raise UserError(
                    f"{self._name}/{split}: example {number} became {type(record).__name__}, "
                    "not a Record; return sbs_jax.datasets.records.Record(...)"
                )
            yield record

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
                digest.update(json.dumps(dataclasses.astuple(record)).encode())
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


def read_annotations(path: Path) -> dict[str, tuple[str | None, str | None]]:
    """Teacher outputs by record id: {id: (rationale, label)}.

    Each line is a JSON object with ``id``, ``rationale`` and the teacher's ``llm_label`` (or
    ``label``). Raises UserError (file:line) for a line that is not that.
    """
    found = {}
    for number, line in lines(path):
        where = f"{path}:{number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: not valid JSON ({error.msg})") from None
        if not isinstance(fields, dict) or "id" not in fields:
            raise UserError(f"{where}: expected a JSON object with id, rationale and label")
        label = fields.get("llm_label", fields.get("label"))
        for field, value in (("rationale", fields.get("rationale")), ("label", label)):
            if not isinstance(value, str | None):
                raise UserError(f"{where}: field {field!r} must be text or absent")
        found[str(fields["id"])] = (fields.get("rationale"), label)
    return found


def join(
    records: Iterable[Record], annotations: Mapping[str, tuple[str | None, str | None]]
) -> Iterator[Record]:
    """Gives each record the teacher's rationale and label that were filed under its id."""
    for record in records:
        if record.id in annotations:
            rationale, label = annotations[record.id]
            record = dataclasses.replace(record, rationale=rationale, llm_label=label)
        yield record


def _version(path: Path) -> tuple[Path, int, int]:
    """A key that changes with the file, cheaper than its content."""
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.lru_cache(maxsize=64)
def _count_lines(path: Path, size: int, mtime_ns: int) -> int:
    del size, mtime_ns
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())
