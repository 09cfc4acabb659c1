"""Validation scores of checkpoints, each with the fingerprint of the questions it belongs to.

`scores.json` lies next to the checkpoints: a checkpoint is saved before it is scored, so that a
failing evaluation loses no update. Checkpoints of earlier versions hold their score inside.
"""

import json
import math
from typing import NamedTuple

from sbs_jax.utils.buckets import place
from sbs_jax.utils.files import write_lines

NAME = "scores.json"


class Score(NamedTuple):
    """One checkpoint's score.

    Attributes:
        value: of the ranking metric, finite.
        fingerprint: of what was scored (`runs.score_identity`); None if an earlier version or
            another program saved the score.
    """

    value: float
    fingerprint: str | None = None


def read(directory: str, metric: str | None) -> dict[int, Score]:
    """Scores by step, the last one noted at the end; empty for a missing or unreadable file."""
    try:
        noted = json.loads((place(directory) / NAME).read_text(encoding="utf-8"))
        return {int(step): Score(row[metric], row["fingerprint"]) for step, row in noted.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def write(directory: str, metric: str, scores: dict[int, Score]) -> None:
    """Replaces scores.json; a reader sees the old file or the new one."""
    rows = {step: {metric: value, "fingerprint": mark} for step, (value, mark) in scores.items()}
    write_lines(place(directory) / NAME, [json.dumps(rows, indent=2) + "\n"])


def saved_inside(directory: str, step: int, metric: str | None) -> Score | None:
    """The score an earlier version saved with the checkpoint; None without one."""
    path = place(directory) / str(step) / "extra" / "metadata"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))["metrics"].get(metric)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a damaged file is reported when the checkpoint is restored
    return None if value is None else finite(value)


def finite(value: float, fingerprint: str | None = None) -> Score | None:
    """A score to rank by; None for NaN and infinity."""
    return Score(float(value), fingerprint) if math.isfinite(value) else None
