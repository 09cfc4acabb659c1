"""A prompt's file -> its fields: JSON, or YAML, which has comments and texts of several lines.

Exemplars may come from a CSV file in the same folder: ``"exemplars": "mine.csv"``, with the columns
input, rationale and label.
"""

import csv
import json
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError

SUFFIXES = (".json", ".yaml", ".yml")

_COLUMNS = ("input", "rationale", "label")


def read(path: Path) -> dict[str, Any]:
    """The fields of a prompt's file. Raises UserError for a file that is no such object."""
    try:
        text = path.read_text(encoding="utf-8")
        fields = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except (OSError, ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a readable {kind} file ({reason})") from None
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise UserError(f"{path}: expected one object with the fields of a prompt")
    exemplars = fields.get("exemplars")
    if isinstance(exemplars, str):
        fields["exemplars"] = _csv(path.parent / exemplars)
    return fields


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(error) from None


def _csv(path: Path) -> list[dict[str, str]]:
    """The exemplars of a CSV file with a header."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(f"{path}:1: column {missing[0]!r} is missing; exemplars need it")
            return [{name: row[name] or "" for name in _COLUMNS} for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from None
