"""Selects questions of a pool for the teacher: two arms of one size.

``uncertain`` holds the questions that a student is least sure of, ``random`` as many at random.
Public evidence for choosing by uncertainty is mixed (Lowell et al. 2019, "Practical Obstacles to
Deploying Active Learning", find it no better than chance on many text tasks), so the random arm is
always asked for as well: what the choice gained is measured, not assumed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sbs_jax.datasets.records import Record, read_jsonl, write_jsonl
from sbs_jax.errors import UserError
from sbs_jax.utils import jsonl
from sbs_jax.utils.files import write_lines

NAME = "selection.json"
UNCERTAIN, RANDOM = "uncertain", "random"
_SEED = "sbs random arm"

Inputs = Mapping[str, Callable[[], Iterable[Record]]]
Key = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Selection:
    """The chosen questions.

    Attributes:
        made_of: the student, the budget and the size of the pool.
        arms: arm -> (split, id) -> how sure the student is.
    """

    made_of: dict[str, Any]
    arms: dict[str, dict[Key, float]]

    def inputs(self, inputs: Inputs) -> dict[str, Callable[[], Iterable[Record]]]:
        """The questions of both arms alone."""
        chosen = {key for arm in self.arms.values() for key in arm}

        def only(split: str) -> Callable[[], Iterable[Record]]:
            return lambda: (r for r in inputs[split]() if (split, r.id) in chosen)

        return {split: only(split) for split in inputs}

    def __str__(self) -> str:
        lines = []
        for name, arm in self.arms.items():
            mean = sum(arm.values()) / max(1, len(arm))
            lines.append(f"arm {name}: {len(arm)} questions, mean confidence {mean:.3f}")
        return "\n".join(lines)


def choose(confidences: Mapping[Key, float], budget: int, student: str) -> Selection:
    """Both arms out of a pool; the same pool and student give the same choice.

    Raises UserError for a budget that leaves nothing to choose.
    """
    pool = list(confidences)
    if budget >= len(pool):
        raise UserError(
            f"--budget={budget}: the pool has {len(pool)} questions, so there is nothing to choose"
        )
    least_sure = sorted(pool, key=lambda key: (confidences[key], _hash(key)))
    shuffled = sorted(pool, key=_hash)
    arms = {
        name: {key: confidences[key] for key in order[:budget]}
        for name, order in ((UNCERTAIN, least_sure), (RANDOM, shuffled))
    }
    made_of = {"student": student, "budget": budget, "pool": len(pool)}
    return Selection(made_of, arms)


def _hash(key: Key) -> str:
    return hashlib.sha256(json.dumps([_SEED, *key]).encode()).hexdigest()


def kept(
    folder: Path, student: str, budget: int, make: Callable[[], Selection], write: bool = True
) -> Selection:
    """The folder's selection; makes it, and writes it on request, if the folder has none.

    Raises UserError where it was made with another student or budget.
    """
    selection = load(folder)
    if selection is None:
        selection = make()
        if write:
            _write(folder, selection)
    for name, now in (("student", student), ("budget", budget)):
        before = selection.made_of[name]
        if before != now:
            raise UserError(
                f"{folder / NAME}: --{name} was {before}, now {now}; choose another --out"
            )
    return selection


def load(folder: Path) -> Selection | None:
    """The folder's selection, or None where it has none."""
    path = folder / NAME
    if not path.is_file():
        return None
    fields = jsonl.parse_object(path.read_text(encoding="utf-8"), str(path))
    arms = {
        arm: {(split, name): sure for split, name, sure in rows}
        for arm, rows in fields["arms"].items()
    }
    return Selection(fields["made_of"], arms)


def _write(folder: Path, selection: Selection) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        arm: [[*key, sure] for key, sure in keys.items()] for arm, keys in selection.arms.items()
    }
    write_lines(folder / NAME, [json.dumps({"made_of": selection.made_of, "arms": rows}) + "\n"])


def write_arms(folder: Path, selection: Selection, splits: Iterable[str]) -> list[Path]:
    """OUT/ARM/SPLIT.jsonl: the answered records of each arm, to train on; returns the files."""
    files = []
    for split in splits:
        records = list(read_jsonl(folder / f"{split}.jsonl"))
        for arm, keys in selection.arms.items():
            path = folder / arm / f"{split}.jsonl"
            write_jsonl(path, (r for r in records if (split, r.id) in keys))
            files.append(path)
    return files
