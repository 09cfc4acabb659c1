"""settings.json: the settings of a folder of answers; other settings are refused."""

import json
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.utils.files import atomic_writer

NAME = "settings.json"

_SHOWN = 60


def claim(folder: Path, settings: dict[str, Any], replace: bool = False) -> None:
    """Makes the folder belong to these settings, or checks that it already does.

    Args:
        replace: other settings give way, because nothing was answered under them.

    Raises UserError naming every setting that differs, with both values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
    try:
        # Of two shards that start together one writes the file.
        with atomic_writer(folder / NAME, "wb", overwrite=replace) as file:
            file.write(text.encode("utf-8", errors="replace"))
    except FileExistsError:
        check(folder, settings)


def check(folder: Path, settings: dict[str, Any]) -> None:
    """Raises UserError where the folder was made with other settings; an empty one fits."""
    path = folder / NAME
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore or delete it") from None
    here = json.loads(json.dumps(settings))
    differing = [name for name in there | here if there.get(name) != here.get(name)]
    if differing:
        changes = "; ".join(_change(name, there.get(name), here.get(name)) for name in differing)
        raise UserError(
            f"{folder}: made with other settings: {changes}; choose another --out, "
            "or go back to those settings"
        )


def _change(name: str, there: Any, here: Any) -> str:
    if isinstance(there, list) and isinstance(here, list):
        pairs = enumerate(zip(there, here, strict=False), start=1)
        first = next((n for n, (old, new) in pairs if old != new), min(len(there), len(here)) + 1)
        return f"{name} (number {first} of {len(there)} there and {len(here)} now)"
    return f"{name} was {_short(there)}, now {_short(here)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
