"""A folder of upstream T5X: the settings of its run, its checkpoints, its evaluations.

::

    MODEL_DIR or EVAL_OUTPUT_DIR/
      config.gin                          all that gin had bound at the last start
      checkpoint_STEP/                    parameters
      inference_eval/TASK-metrics.jsonl   {"step", "correct", "n", "teacher_correct", ...}
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbs_jax.configs import TrainConfig, t5x_config
from sbs_jax.errors import UserError
from sbs_jax.runs import layout
from sbs_jax.runs.reader import Run
from sbs_jax.utils import buckets, jsonl
from sbs_jax.utils.buckets import local_copy, place
from sbs_jax.utils.paths import is_remote

EVALUATIONS = "inference_eval"
_CHECKPOINT = "checkpoint_"
_WRITTEN_LAST = ("commit_success.txt", "checkpoint")  # of an Orbax checkpoint, of a legacy one
_OURS = b"configs.TrainConfig."
_METRICS = "-metrics.jsonl"
_SPLIT = "of infer_eval"  # T5X does not write which: validation in training, else t5x.eval's


def is_one(folder: str | os.PathLike[str]) -> bool:
    """Whether T5X, and no run of ours, left checkpoints or evaluations in a folder."""
    inside = os.fspath(folder).rstrip("/").rpartition("/")[2].startswith(_CHECKPOINT)
    if inside or not buckets.can_list(folder):
        return False
    path = place(folder)
    return not (path / layout.RUN).is_file() and (
        bool(steps(folder)) or (path / EVALUATIONS).is_dir()
    )


def is_ours(folder: str | os.PathLike[str]) -> bool:
    """Whether it is one that our gin files made, by its config.gin."""
    config = place(folder) / layout.CONFIG_GIN if is_one(folder) else None
    return config is not None and config.is_file() and _OURS in config.read_bytes()


def steps(folder: str | os.PathLike[str]) -> list[int]:
    """The steps of T5X's complete checkpoints in a folder, oldest first."""
    named = place(folder).glob(f"{_CHECKPOINT}*")
    folders = {path.name.removeprefix(_CHECKPOINT): path for path in named}
    return sorted(int(step) for step, path in folders.items() if step.isdecimal() and _whole(path))


def _whole(path: Path) -> bool:
    """Whether a checkpoint is complete: a local one gets its name last, one in a bucket a file."""
    return not is_remote(path) or any((path / name).exists() for name in _WRITTEN_LAST)


def checkpoint(folder: str | os.PathLike[str], step: int | None = None) -> tuple[int, Path]:
    """(step, folder) of a checkpoint: the newest, or that of a step.

    Raises:
        UserError: there is none, naming those there are.
    """
    known = steps(folder)
    if not known:
        raise UserError(f"{folder}: no {_CHECKPOINT}STEP is there; give the MODEL_DIR of t5x.train")
    chosen = known[-1] if step is None else step
    if chosen not in known:
        has = ", ".join(map(str, known))
        raise UserError(f"{folder}: no checkpoint of step {chosen}; has {has}")
    return chosen, place(folder) / f"{_CHECKPOINT}{chosen}"


def load(folder: str | os.PathLike[str]) -> TrainConfig:
    """The configuration of the run in a folder; reads config.gin and imports nothing.

    Raises:
        UserError: no checkpoint or config.gin, or one that does not say how the student is asked.
    """
    checkpoint(folder)
    config = place(folder) / layout.CONFIG_GIN
    if not config.is_file():
        raise UserError(
            f"{config}: not there, so nothing says how this student of T5X is asked; copy the file "
            "that t5x.train wrote there, or make it a run of sbs train (docs/t5x.md, Checkpoints)"
        )
    with local_copy(config) as file:
        return dataclasses.replace(t5x_config.read(file), model_dir=str(folder))


def refuse(folder: str | os.PathLike[str]) -> None:
    """Raises UserError, with what to do instead, for a run of T5X."""
    if is_one(folder):
        raise UserError(
            f"{folder}: a run of T5X, which has no results.json; run sbs evaluate with "
            "--split=validation and --split=test, and give their files as --validation and "
            "--predictions"
        )


def read(folder: Path, name: str) -> Run:
    """The last evaluation of every task.

    Raises:
        UserError: file and line of what cannot be understood, or no task was scored.
    """
    tasks = sorted((folder / EVALUATIONS).glob(f"*{_METRICS}"))
    results = [result for path in tasks for result in _last(path)]
    if not results:
        raise UserError(f"{folder / EVALUATIONS}: holds no accuracy of a task with labels")
    step = max(result["step"] for result in results)
    mixture = results[0]["task"]
    return Run(name, folder, {"mixture": mixture, "step": step, "results": results}, [])


def _last(path: Path) -> Iterator[dict[str, Any]]:
    """The newest line that holds a student's accuracy; tasks without labels have none."""
    rows = [row for _, row in jsonl.objects(path) if {"step", "correct", "n"} <= row.keys()]
    if rows:
        row = max(rows, key=lambda row: row["step"])
        teacher = {name: row.get(f"teacher_{name}") for name in ("correct", "n")}
        yield {
            "task": path.name.removesuffix(_METRICS),
            "split": _SPLIT,
            "step": row["step"],
            "correct": row["correct"],
            "n": row["n"],
            "squares": row.get("squares"),
            "teacher": teacher if teacher["n"] else None,
            "majority": None,
        }
