"""Writes DATA_DIR/DATASET/SPLIT.jsonl from any source, with counts.

A folder is complete once its ``source.json`` is there; the same source is not read twice.
"""

import dataclasses
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sbs_jax.datasets import asdiv
from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.datasets.release import RELEASED, Release, Teacher
from sbs_jax.datasets.splits import SPLITS, train_test_rows
from sbs_jax.errors import UserError
from sbs_jax.metrics import accuracy

_SUMMARY = "source.json"
_FORMAT = 1  # raise it when the same source gives other records


@dataclasses.dataclass(frozen=True, slots=True)
class FileSummary:
    """Counts of one written file.

    Attributes:
        n: records.
        teacher: the teacher's labels against gold, unreadable ones counted as wrong; None where
            the source has no teacher.
        unparsed: how many teacher labels are blank, as nothing could be read from the completion.
        size: bytes of the JSONL file.
    """

    n: int
    teacher: accuracy.Accuracy | None
    unparsed: int
    size: int


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A dataset whose files are written.

    Attributes:
        dataset: its name.
        files: split -> what its file holds.
        carve_validation: the share of train that becomes validation; None if it has a file.
    """

    dataset: str
    files: dict[str, FileSummary]
    carve_validation: float | None

    def split_sizes(self) -> dict[str, int]:
        """Rows of each split, with validation taken out of train."""
        sizes = {split: file.n for split, file in self.files.items()}
        if self.carve_validation and "train" in sizes:
            train, validation = train_test_rows(sizes["train"], self.carve_validation, 0)
            sizes |= {"train": len(train), "validation": len(validation)}
        return sizes


def from_release(
    release: Release, dataset: str, data_dir: str | os.PathLike[str], teacher: Teacher = "palm"
) -> Prepared:
    """Writes the files of one dataset of the archive: DATA_DIR/DATASET/SPLIT.jsonl."""
    known = RELEASED[dataset]
    files = write(
        Path(data_dir) / dataset,
        f"{teacher}:{release.fingerprint(dataset)}",
        {
            split: functools.partial(release.records, dataset, split, teacher)
            for split in release.splits(dataset)
        },
        known.metric,
    )
    return Prepared(dataset, files, known.carve_validation)


def from_asdiv(path: str | os.PathLike[str], data_dir: str | os.PathLike[str]) -> Prepared:
    """Writes DATA_DIR/asdiv/{train,test}.jsonl from ASDiv.xml."""
    problems = asdiv.read(path)
    fingerprint = hashlib.sha256(repr(problems).encode()).hexdigest()
    sources = {s: functools.partial(iter, rows) for s, rows in asdiv.split(problems).items()}
    files = write(Path(data_dir) / "asdiv", fingerprint, sources, asdiv.METRIC)
    return Prepared("asdiv", files, asdiv.CARVE_VALIDATION)


def write(
    folder: str | os.PathLike[str],
    fingerprint: str,
    sources: Mapping[str, Callable[[], Iterable[Record]]],
    metric: accuracy.Metric,
) -> dict[str, FileSummary]:
    """Writes one JSONL file per split with a summary; skips files that are up to date.

    Args:
        folder: DATA_DIR/DATASET. Files of splits that the source lacks are removed from it, as
            they would mix two sources.
        fingerprint: of the source; a different one rewrites the files.
        sources: split -> a function that opens its records.
        metric: how the teacher's labels are scored.

    Raises UserError where the folder cannot be written, and what the sources raise; the files
    appear together, when all are complete.
    """
    folder = Path(folder)
    key = f"{_FORMAT}:{metric}:{fingerprint}"
    done = _read_summary(folder, key)
    if done is not None and set(done) == set(sources):
        return done
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Write all files before renaming any: a bad line in one must not mix two sources.
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as fresh:
            files = {
                split: _write_file(Path(fresh) / f"{split}.jsonl", source(), metric)
                for split, source in sources.items()
            }
            _write_summary(Path(fresh) / _SUMMARY, key, files)
            _put_in_place(Path(fresh), folder, files)
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: cannot be written ({error.strerror})"
        ) from None
    return files


class _Counts:
    """Counts records while they pass."""

    def __init__(self, metric: accuracy.Metric) -> None:
        self._metric = metric
        self.n = self.unparsed = 0
        self.scores: list[accuracy.Score] = []

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self.n += 1
            if record.llm_label is not None:
                self.scores.append(accuracy.score(self._metric, record.llm_label, record.label))
                self.unparsed += not record.llm_label.strip()
            yield record


def _write_file(path: Path, records: Iterable[Record], metric: accuracy.Metric) -> FileSummary:
    counts = _Counts(metric)
    write_jsonl(path, counts.watch(records))
    teacher = accuracy.Accuracy.of(counts.scores) if counts.scores else None
    return FileSummary(counts.n, teacher, counts.unparsed, path.stat().st_size)


def _write_summary(path: Path, key: str, files: Mapping[str, FileSummary]) -> None:
    content = {"source": key, "files": {s: dataclasses.asdict(f) for s, f in files.items()}}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _put_in_place(fresh: Path, folder: Path, splits: Iterable[str]) -> None:
    (folder / _SUMMARY).unlink(missing_ok=True)
    for split in SPLITS:
        if split in splits:
            (fresh / f"{split}.jsonl").replace(folder / f"{split}.jsonl")
        else:
            (folder / f"{split}.jsonl").unlink(missing_ok=True)
    (fresh / _SUMMARY).replace(folder / _SUMMARY)


def _read_summary(folder: Path, key: str) -> dict[str, FileSummary] | None:
    """The summary that `write` stored, if its source is this one and its files are unchanged."""
    try:
        content = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
        if content["source"] != key:
            return None
        files = {split: _file_summary(fields) for split, fields in content["files"].items()}
        sizes = {split: (folder / f"{split}.jsonl").stat().st_size for split in files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return files if all(files[split].size == size for split, size in sizes.items()) else None


def _file_summary(fields: Mapping[str, Any]) -> FileSummary:
    teacher = fields["teacher"]
    return FileSummary(**{**fields, "teacher": teacher and accuracy.Accuracy(**teacher)})
