"""The metrics of a run: collected from the devices, written to metrics.jsonl and to trackers."""

import contextlib
import json
import time
from collections.abc import Callable, Container, Iterator, Mapping

import jax
import numpy as np

from sbs_jax.configs import TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline.batches import Batches
from sbs_jax.runs import layout
from sbs_jax.training import losses, trackers
from sbs_jax.training.train_step import FINITE_METRICS
from sbs_jax.utils import console
from sbs_jax.utils.buckets import place
from sbs_jax.utils.console import duration, say
from sbs_jax.utils.files import GrowingFile, write_lines

VALIDATION_ACCURACY = "validation/accuracy"

# Ten in a row are a broken run rather than a bad batch, even where single ones are skipped.
_MAX_SKIPPED = 10


class Clock:
    """Wall and CPU seconds since the start of a period, pauses left out."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Starts a period of updates."""
        self._start = np.array(self._now())

    def seconds(self) -> tuple[float, float]:
        """(wall, CPU) seconds of the period."""
        wall, cpu = self._now() - self._start
        return float(wall), float(cpu)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block out of the period."""
        before = np.array(self._now())
        yield
        self._start += self._now() - before

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.monotonic(), time.process_time()


class StepMetrics:
    """The metrics of the updates since the last log line, fetched as late as possible.

    Args:
        last_checkpoint: returns the step of the newest checkpoint, for the error message.
    """

    def __init__(
        self, batches: Batches, config: TrainConfig, last_checkpoint: Callable[[], int | None]
    ) -> None:
        self._batches, self._last_checkpoint = batches, last_checkpoint
        self._skips = config.on_nonfinite != "stop"
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []
        self._finite: list[dict[str, np.ndarray]] = []
        self._skipped = self._in_a_row = 0

    def add(self, index: int, metrics: dict[str, jax.Array]) -> None:
        """Adds the metrics of the update with batch `index`; waits for nothing."""
        self._pending.append((index, metrics))

    def check(self) -> None:
        """Waits for the updates so far.

        Raises:
            UserError: loss, gradient or new parameters of an update are not finite; where such
                updates are skipped, those of ten in a row.
        """
        pending, self._pending = self._pending, []
        indices = [index for index, _ in pending]
        fetched = jax.device_get([metrics for _, metrics in pending])
        for index, metrics in zip(indices, fetched, strict=True):
            if all(np.isfinite(metrics[name]) for name in FINITE_METRICS):
                self._finite.append(metrics)
                self._in_a_row = 0
                continue
            self._skipped += 1
            self._in_a_row += 1
            if not self._skips or self._in_a_row == _MAX_SKIPPED:
                raise self._error(index, metrics)

    def _error(self, index: int, metrics: dict[str, np.ndarray]) -> UserError:
        passes = np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
        what = "the updated parameters are" if passes else "the loss or its gradient is"
        last = self._last_checkpoint()
        kept = "none yet" if last is None else f"that of step {last} is finite"
        again = f" {_MAX_SKIPPED} times in a row" if self._skips else ""
        skip = "to continue here, bind TrainConfig.on_nonfinite = 'skip' or 'reduce' (the rate); "
        other = "" if self._skips else skip
        return UserError(
            f"step {index + 1}: {what} not finite{again} (questions "
            f"{', '.join(self._batches.ids(index)[:8])}, ...); {other}or start in another "
            f"MODEL_DIR with a lower LEARNING_RATE or DTYPE = 'float32'. Checkpoints: {kept}"
        )

    def summarize(self) -> dict[str, float]:
        """The scalars of the period; starts a new period.

        Losses are token means over the period; learning_rate and grad_norm are those of its last
        update. Skipped updates are counted only.
        """
        self.check()
        rows, skipped = self._finite, self._skipped
        self._finite, self._skipped = [], 0
        scalars = {"skipped_updates": float(skipped)} if skipped else {}
        if not rows:
            return scalars
        scalars["loss"] = float(np.mean([metrics["loss"] for metrics in rows]))
        for task in losses.TASKS:
            scalars |= _token_means(task, rows)
        scalars["learning_rate"] = float(rows[-1]["learning_rate"])
        scalars["grad_norm"] = float(rows[-1]["grad_norm"])
        return scalars


def _token_means(task: str, rows: list[dict[str, np.ndarray]]) -> dict[str, float]:
    """A task's loss and accuracy per token over several updates; empty without tokens."""
    tokens, loss, correct = (
        sum(float(metrics[f"{task}/{name}"]) for metrics in rows)
        for name in ("tokens", "loss_sum", "correct_tokens")
    )
    if not tokens:
        return {}
    return {f"{task}/loss": loss / tokens, f"{task}/token_accuracy": correct / tokens}


class MetricsLog:
    """Appends one JSON object per logged step, and gives the same scalars to trackers.

    Only process 0 writes. A run that continues from `start_step` first drops the lines of later
    steps, whose updates are repeated, and `drop_scores` what is measured again: a scalar of a step
    is in the file once.
    """

    def __init__(self, config: TrainConfig, start_step: int, tracker: str = "tensorboard") -> None:
        self.path = place(config.model_dir) / layout.METRICS
        self._train_steps, self._batch_size = config.train_steps, config.batch_size
        self._start_step, self._updates = start_step, 0
        self._clock = Clock()
        self._lines: GrowingFile | None = None  # process 0 alone writes
        self._trackers: list[trackers.Tracker] = []
        self._logged: set[str] = set()
        if console.is_primary():
            self.drop_scores(())
            self._trackers = trackers.create(tracker, config, start_step)

    def drop_scores(self, steps: Container[int]) -> None:
        """Removes validation scores of these steps, and all of steps after the start, if any.

        Call it before the first `write`.
        """
        if console.is_primary():
            self._lines = GrowingFile(self.path, self._kept_lines(steps))

    def _kept_lines(self, rescored: Container[int]) -> list[str]:
        """Rewrites the file without what is written again; returns the lines that stay."""
        self._logged.clear()
        if not self.path.exists():
            return []
        kept = []
        for line in self.path.read_text(encoding="utf-8").split("\n"):
            try:
                row = json.loads(line)
                logged = row["step"]
            except (ValueError, KeyError, TypeError):
                continue  # the torn last line of a killed run
            if logged > self._start_step or (VALIDATION_ACCURACY in row and logged in rescored):
                continue
            kept.append(line + "\n")
            if logged == self._start_step:
                self._logged |= row.keys()
        write_lines(self.path, kept)
        return kept

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one object of metrics.jsonl and one point per curve of a tracker."""
        if step == self._start_step:  # scored again after a restart: perhaps logged before
            scalars = {name: scalars[name] for name in scalars.keys() - self._logged}
        if self._lines is None or not scalars:
            return
        rounded = {name: float(f"{value:.9g}") for name, value in scalars.items()}
        self._lines.append(json.dumps({"step": step, **rounded}) + "\n")
        for tracker in self._trackers:
            tracker.log(step, rounded)

    def start_period(self) -> None:
        """Starts the clock of the next updates."""
        self._updates = 0
        self._clock.restart()

    def count_update(self) -> None:
        """Counts an update of the period."""
        self._updates += 1

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Leaves what happens between two updates out of the speed."""
        return self._clock.paused()

    def end_period(self, step: int, scalars: dict[str, float]) -> None:
        """Writes a period's scalars and speed, prints a progress line, starts the next period.

        The first update of a run has no speed: it includes work that is done once.
        """
        seconds, cpu_seconds = self._clock.seconds()
        scalars["examples_per_second"] = self._batch_size * self._updates / seconds
        left = None
        if step > self._start_step + 1:
            scalars["cpu_seconds"] = cpu_seconds
            left = seconds / self._updates * (self._train_steps - step)
        self.write(step, scalars)
        self._progress(step, scalars, left)
        self.start_period()

    def _progress(self, step: int, scalars: Mapping[str, float], left: float | None) -> None:
        means = "  ".join(
            f"{name.removesuffix('/loss')} {value:.4f}"
            for name, value in scalars.items()
            if name.endswith("loss")
        )
        pace = ""
        if left is not None:
            speed = scalars["examples_per_second"]
            pace = f"  {speed:.1f} examples/s  ETA {duration(left)}"
        say(f"step {step}/{self._train_steps}  {means}{pace}")

    def flush(self) -> None:
        """Writes lines that a bucket has not got yet: before what a restart does not repeat."""
        if self._lines:
            self._lines.flush()

    def close(self) -> None:
        """Writes the rest and closes the trackers."""
        self.flush()
        for tracker in self._trackers:
            tracker.close()
