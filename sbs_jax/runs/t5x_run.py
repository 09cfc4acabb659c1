"""Reads the evaluations of an upstream T5X run for a report; elsewhere says what to do instead.

::

    MODEL_DIR or EVAL_OUTPUT_DIR/
      checkpoint_STEP/                    parameters
      inference_eval/TASK-metrics.jsonl   {"step", "correct", "n", "teacher_correct", ...}
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.runs import layout
from sbs_jax.runs.reader import Run
from sbs_jax.utils import jsonl
from sbs_jax.utils.buckets import place

EVALUATIONS = "inference_eval"
_METRICS = "-metrics.jsonl"
_SPLIT = "of infer_eval"  # T5X does not write which: validation in training, else t5x.eval's


def refuse(folder: str | os.PathLike[str]) -> None:
    """Raises UserError, with what to do instead, for a run of T5X."""
    path = place(folder)
    if (path / layout.RUN).is_file():
        return
    steps = [p.name for p in path.glob("checkpoint_*") if p.name.rpartition("_")[2].isdecimal()]
    if steps or (path / EVALUATIONS).is_dir():
        newest = max(steps, key=lambda name: int(name.rpartition("_")[2]), default="no checkpoint")
        raise UserError(
            f"{folder}: a run of T5X ({newest}); score it with t5x.eval, which sbs report reads, "
            "or make it a run of sbs train with INITIAL_CHECKPOINT_PATH (docs/t5x.md, Checkpoints)"
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
