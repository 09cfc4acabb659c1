"""Reads rows of Parquet and Arrow files, and of datasets that Hugging Face datasets saved."""

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.utils import jsonl

Rows = Iterator[tuple[str, dict[str, Any]]]


def parquet(path: str) -> Rows:
    """(Place, row) of a Parquet file."""

    def batches() -> Iterator[Any]:
        from pyarrow import parquet

        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches()

    return _rows(path, batches)


def arrow(path: str) -> Rows:
    """(Place, row) of an Arrow file, of the stream format or of the file format (Feather)."""
    return _rows(path, lambda: _batches(path))


def saved_dataset(folder: Path) -> Rows:
    """(Place, row) of a folder that ``Dataset.save_to_disk`` wrote."""
    parts = _parts(folder)
    if not parts:
        raise UserError(
            f"{folder}: holds no .arrow file; give a file, or one split of a saved dataset"
        )
    return _rows(str(folder), lambda: (batch for part in parts for batch in _batches(str(part))))


def _parts(folder: Path) -> list[Path]:
    """The files of a saved dataset, not what ``map`` has cached next to them."""
    state = folder / "state.json"
    if not state.is_file():
        return sorted(set(folder.glob("*.arrow")) - set(folder.glob("cache-*")))
    try:
        fields = jsonl.parse_object(state.read_text(encoding="utf-8"), str(state))
        return [folder / part["filename"] for part in fields["_data_files"]]
    except (KeyError, TypeError, UnicodeDecodeError):
        raise UserError(f"{state}: names no data files; save the dataset again") from None


def _batches(path: str) -> Iterator[Any]:
    import pyarrow

    with pyarrow.memory_map(path) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        if not is_file:
            yield from pyarrow.ipc.open_stream(source)
            return
        reader = pyarrow.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _rows(path: str, batches: Callable[[], Iterator[Any]]) -> Rows:
    number = 0
    try:
        import pyarrow
    except ModuleNotFoundError:
        raise UserError(f"{path}: needs pyarrow; pip install pyarrow, or give JSONL") from None
    try:
        for batch in batches():
            columns = batch.schema.names
            if repeated := {name for name in columns if columns.count(name) > 1}:
                raise UserError(f"{path}: column {min(repeated)!r} is there twice; drop one")
            meanings = _meanings(batch.schema)
            for row in batch.to_pylist():
                number += 1
                for column, meaning in meanings.items():
                    row[column] = meaning(row[column])
                yield f"{path}: row {number}", row
    except (OSError, pyarrow.ArrowInvalid) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{path}: cannot be read ({reason})") from None


def _meanings(schema: Any) -> dict[str, Callable[[Any], Any]]:
    """Column -> what a stored value means, for columns that store numbers of classes or JSON."""
    features = _features(schema)
    meanings: dict[str, Callable[[Any], Any]] = {}
    for field in schema:
        feature = features.get(field.name, {})
        # A text to a pyarrow that does not know the type; datasets' note says it too.
        is_json = getattr(field.type, "extension_name", None) == "arrow.json"
        if is_json or feature.get("_type") == "Json":
            meanings[field.name] = _decoded
        elif feature.get("_type") == "ClassLabel" and "names" in feature:
            meanings[field.name] = functools.partial(_named, feature["names"])
    return meanings


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What Hugging Face datasets notes of each column; nothing if the note is another library's."""
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = described.get("info", {}).get("features", {})
        return {column: kind for column, kind in features.items() if isinstance(kind, dict)}
    except (ValueError, AttributeError):
        return {}


def _named(names: list[str], value: Any) -> Any:
    """The name of a class; None for -1, as in a test split without labels."""
    if value == -1:
        return None
    return names[value] if isinstance(value, int) and value < len(names) else value


def _decoded(value: Any) -> Any:
    """What a JSON text says, a number as it is written.

    datasets 5 stores a column of texts so if one row holds a number: "yes" with its quotes, "1.50"
    without (findings/datasets_mixed_labels.sh).
    """
    try:
        content = json.loads(value)
    except (TypeError, ValueError, RecursionError):
        return value
    return value if isinstance(content, int | float) else content
