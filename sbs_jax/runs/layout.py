"""The files of a MODEL_DIR: every name, in one place.

::

    MODEL_DIR/
      model.json                           of a converted checkpoint: its model and vocabulary
      run.json                             the run's configuration and fingerprints of its data
      data/SPLIT.jsonl, spiece.model       records and vocabulary of `sbs train --records`
      config.gin                           operative gin configuration, reloadable
      metrics.jsonl                        one object per logged step
      train/                               the same for TensorBoard
      tracker.json                         the run's ids at other trackers, with --tracker
      profile/                             of some updates, with --profile_steps
      checkpoints/STEP/                    parameters, optimizer state, checksums.json
      checkpoints/scores.json              validation scores of the steps
      predictions-TASK-SPLIT-STEP.jsonl    one object per evaluation example
      results.json                         scores of the chosen checkpoint; the run is complete
      lock.json                            in a bucket, while a run works there

MODEL_DIR is a local folder or a `gs://` address; `buckets.place` makes a path of either.
"""

import os
from pathlib import Path

from sbs_jax.utils.buckets import place

MODEL = "model.json"
RUN = "run.json"
CONFIG_GIN = "config.gin"
SPIECE = "spiece.model"
METRICS = "metrics.jsonl"
EVENTS = "train"
TRACKER = "tracker.json"
PROFILE = "profile"
CHECKPOINTS = "checkpoints"
CHECKSUMS = "checksums.json"
RESULTS = "results.json"


def checkpoints(model_dir: str | os.PathLike[str]) -> Path:
    """The folder of the checkpoints, one folder per step."""
    return place(model_dir) / CHECKPOINTS


def predictions(model_dir: str | os.PathLike[str], task: str, split: str, step: int) -> Path:
    """The predictions of one evaluation."""
    return place(model_dir) / f"predictions-{task}-{split}-{step}.jsonl"


def find_predictions(model_dir: str | os.PathLike[str], split: str, step: int) -> list[Path]:
    """The predictions files of a split at a step, whatever their task."""
    return sorted(place(model_dir).glob(f"predictions-*-{split}-{step}.jsonl"))


def predicted_steps(model_dir: str | os.PathLike[str], split: str) -> list[int]:
    """The steps that a split was answered at, by its predictions files."""
    steps = (
        path.stem.rpartition("-")[2]
        for path in place(model_dir).glob(f"predictions-*-{split}-*.jsonl")
    )
    return sorted({int(step) for step in steps if step.isdigit()})
