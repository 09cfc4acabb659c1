"""A dataset's view tokenised once: token ids on disk, mapped into memory, without TensorFlow.

`prepare` writes one folder per (data, view, prefixes, vocabulary, lengths) and reads it ever
after. The folder is written under another name and renamed at the end, so a reader never sees half
of one, and of two processes that prepare the same at once the slower discards its own.

Memory while preparing is bounded by one chunk of `_CHUNK` records, their text and ids, however long
the file: 549,367 records of e-SNLI's lengths took 50 MB more than the process had before. A table
that is read maps its tokens and ids and holds 34 bytes per record.
"""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped

from sbs_jax.datasets.methods import Prefixes, View
from sbs_jax.datasets.records import Record
from sbs_jax.datasets.registry import Dataset
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline.vocabularies import Vocabulary, encode_texts
from sbs_jax.utils.console import Progress, say
from sbs_jax.utils.files import scratch_folder

_FORMAT_VERSION = 2
_CHUNK = 4096
# A preparation that has not written for so long was killed.
_STALE_SECONDS = 3600
_PROGRESS_SECONDS = 5.0


class TokenTable:
    """Token ids of one view of a file's records, one row per record in file order.

    Attributes:
        n: rows.
        ids: record ids, as a sequence of str.
        input_lengths, target_lengths: int32 [n], EOS included. A record that has no target in
            this view has target length 0 (and its inputs all the same).
        truncated: {"inputs": .., "targets": ..}: bool [n], sequences longer than their length.
        meta: what the table was made of; `missing` is a count out of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self._inputs = _Ragged(folder, "inputs")
        self._targets = _Ragged(folder, "targets")
        self.ids: Sequence[str] = _Ids(_Ragged(folder, "ids"))
        self.n = len(self.ids)
        self.input_lengths = self._inputs.lengths
        self.target_lengths = self._targets.lengths
        self.truncated = {
            name: np.load(folder / f"{name}.truncated.npy") for name in ("inputs", "targets")
        }

    def inputs(self, row: int) -> Int[np.ndarray, " length"]:
        """int32 ids, EOS at the end; at most the inputs' length."""
        return self._inputs[row].astype(np.int32)

    def targets(self, row: int) -> Int[np.ndarray, " length"]:
        """int32 ids, EOS at the end; empty where the record has no target in this view."""
        return self._targets[row].astype(np.int32)

    @property
    def missing(self) -> int:
        """Records without a target in this view."""
        return self.meta["missing"]

    @property
    def rationales(self) -> int:
        """The most rationales of any record, at least 1."""
        return self.meta.get("rationales", 1)

    def summary(self) -> str:
        """One line: records, those without a target, truncated sequences."""
        meta = self.meta
        parts = [f"{meta['dataset']}/{meta['file_split']} {meta['view']}: {self.n:,} records"]
        if self.missing:
            parts.append(f"{self.missing:,} without a target are left out")
        parts += [
            f"{np.sum(longer):,} {name} truncated to {meta['lengths'][name]} tokens"
            for name, longer in self.truncated.items()
            if longer.any()
        ]
        return ", ".join(parts)


def prepare(
    dataset: Dataset,
    file_split: str,
    view: View,
    vocabulary: Vocabulary,
    lengths: Mapping[str, int],
    prefixes: Prefixes,
    cache_dir: Path,
    *,
    targets_needed: bool = False,
) -> TokenTable:
    """The tokens of a whole file under one view, from the cache or made now.

    Args:
        lengths: {"inputs": .., "targets": ..}; a longer sequence is truncated, its EOS kept. Other
            keys are ignored.
        cache_dir: prepared tables live here; any of them may be deleted at any time.
        targets_needed: refuse a table without any target: one to train on.

    Raises:
        UserError: missing or broken data, an empty file, a cache folder that cannot be written
            or is damaged, or no record has a target and `targets_needed`.
    """
    identity = {
        "format": _FORMAT_VERSION,
        "data": dataset.fingerprint(file_split),
        "dataset": dataset.name,
        "file_split": file_split,
        "view": view.name,
        "prefix": view.prefix_text(prefixes),
        "vocabulary": vocabulary.fingerprint,
        "lengths": {name: lengths[name] for name in ("inputs", "targets")},
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = Path(cache_dir) / f"{dataset.name}-{file_split}-{view.name}-{key[:24]}"
    if not folder.is_dir():
        dataset.count(file_split)  # an empty file is refused here
        _build(folder, dataset, view, vocabulary, prefixes, identity)
        table = _open(folder)
        say(table.summary())
    else:
        table = _open(folder)
    if targets_needed and table.missing == table.n:
        raise UserError(
            f"{dataset.name}_{view.name}: no {file_split} record has {view.needs}; "
            f"{dataset.teacher_hint()}"
        )
    return table


def _open(folder: Path) -> TokenTable:
    try:
        return TokenTable(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: damaged ({error}); delete this folder and repeat") from None


def _build(
    folder: Path,
    dataset: Dataset,
    view: View,
    vocabulary: Vocabulary,
    prefixes: Prefixes,
    identity: Mapping,
) -> None:
    """Writes a table under a temporary name, then renames it to `folder`."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(folder)
        with scratch_folder(folder) as partial:
            partial.mkdir()
            records = dataset.read(identity["file_split"])
            _write(partial, records, view, vocabulary, prefixes, identity)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster; its table is the same
                    raise
    except OSError as error:
        raise UserError(
            f"{folder.parent}: prepared tokens cannot be written ({error.strerror or error}); "
            "free some space, or choose another folder with --cache_dir or $SBS_CACHE_DIR"
        ) from None


def _write(
    folder: Path,
    records: Iterable[Record],
    view: View,
    vocabulary: Vocabulary,
    prefixes: Prefixes,
    identity: Mapping,
) -> None:
    lengths = identity["lengths"]
    dtype = np.uint16 if vocabulary.size <= 2**16 else np.int32
    counts = {"n": 0, "missing": 0, "rationales": 1}
    name = f"{identity['dataset']}/{identity['file_split']} {view.name}"
    progress = Progress(name, unit="records tokenised", period=_PROGRESS_SECONDS)
    with (
        _TokenWriter(folder, "inputs", dtype, lengths["inputs"]) as inputs,
        _TokenWriter(folder, "targets", dtype, lengths["targets"]) as targets,
        _RaggedWriter(folder, "ids", np.uint8) as ids,
    ):
        for chunk in _chunks(records):
            texts = [view.texts(record, prefixes) for record in chunk]
            inputs.append_tokens(encode_with_eos(vocabulary, [text for text, _ in texts]))
            targets.append_tokens(encode_with_eos(vocabulary, [text for _, text in texts]))
            ids.append([record.id.encode() for record in chunk])
            counts["n"] += len(chunk)
            counts["missing"] += sum(text is None for _, text in texts)
            several = max(len(record.rationales) for record in chunk)
            counts["rationales"] = max(counts["rationales"], several)
            progress.update(counts["n"])
    meta = {**identity, **counts, "vocabulary_spec": vocabulary.spec}
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def encode_with_eos(vocabulary: Vocabulary, texts: Sequence[str | None]) -> list[list[int]]:
    """Ids with EOS at the end; none for a text that is missing."""
    encoded = iter(encode_texts(vocabulary, [text for text in texts if text is not None]))
    return [[] if text is None else [*next(encoded), vocabulary.eos_id] for text in texts]


def truncate(ids: list[int], length: int) -> list[int]:
    """At most `length` ids, the last one (EOS) kept."""
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    iterator = iter(records)
    while chunk := list(itertools.islice(iterator, _CHUNK)):
        yield chunk


def _remove_stale(folder: Path) -> None:
    """Deletes what killed preparations of this table left behind."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (left, *left.iterdir()))
            if time.time() - newest > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)


class _Ragged:
    """Sequences of different lengths in two .npy files: all values, and n + 1 offsets."""

    def __init__(self, folder: Path, name: str) -> None:
        self._offsets = np.load(folder / f"{name}.offsets.npy")
        values = np.load(folder / f"{name}.npy", mmap_mode="r" if self._offsets[-1] else None)
        self._values = values.view(np.ndarray)  # slices of np.memmap itself are slow to make
        if len(self._values) != self._offsets[-1]:
            raise ValueError(f"{name}.npy is truncated")

    @property
    def lengths(self) -> Int[np.ndarray, " n"]:
        return np.diff(self._offsets).astype(np.int32)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Shaped[np.ndarray, " length"]:
        # Negative rows would silently read across the border of two sequences.
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self._values[self._offsets[row] : self._offsets[row + 1]]


class _Ids(Sequence[str]):
    """Record ids, decoded on access."""

    def __init__(self, utf8: _Ragged) -> None:
        self._utf8 = utf8

    def __len__(self) -> int:
        return len(self._utf8)

    def __getitem__(self, row: int) -> str:  # type: ignore[override]  # no slices
        return self._utf8[row].tobytes().decode()


class _RaggedWriter:
    """Appends sequences to the two files that `_Ragged` reads."""

    def __init__(self, folder: Path, name: str, dtype: type) -> None:
        self._values = _ArrayWriter(folder / f"{name}.npy", dtype)
        self._offsets = _ArrayWriter(folder / f"{name}.offsets.npy", np.int64)
        self._offsets.append(np.zeros(1, np.int64))

    def __enter__(self) -> "_RaggedWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self._values.close()
        self._offsets.close()

    def append(self, sequences: Sequence[Sequence[int]]) -> None:
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        self._offsets.append(self._values.length + np.cumsum(lengths))
        flat = itertools.chain.from_iterable(sequences)
        self._values.append(np.fromiter(flat, self._values.dtype, int(lengths.sum())))


class _TokenWriter(_RaggedWriter):
    """Truncates sequences to `length`; a third file says which of them were longer."""

    def __init__(self, folder: Path, name: str, dtype: type, length: int) -> None:
        super().__init__(folder, name, dtype)
        self._length = length
        self._truncated = _ArrayWriter(folder / f"{name}.truncated.npy", bool)

    def __enter__(self) -> "_TokenWriter":
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._truncated.close()

    def append_tokens(self, sequences: Sequence[list[int]]) -> None:
        longer = [len(sequence) > self._length for sequence in sequences]
        self._truncated.append(np.array(longer))
        self.append([truncate(sequence, self._length) for sequence in sequences])


class _ArrayWriter:
    """A one-dimensional .npy file whose length is known only at the end."""

    def __init__(self, path: Path, dtype: type) -> None:
        self.dtype = np.dtype(dtype)
        self.length = 0
        self._file = path.open("wb")
        self._write_header()

    def append(self, values: Shaped[np.ndarray, " n"]) -> None:
        self._file.write(values.astype(self.dtype, copy=False).tobytes())
        self.length += len(values)

    def close(self) -> None:
        self._file.flush()
        self._file.seek(0, os.SEEK_SET)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        # numpy leaves room in the header for a longer first axis, for this very purpose.
        header = {
            "shape": (self.length,),
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(self.dtype),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
