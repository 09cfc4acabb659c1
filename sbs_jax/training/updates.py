"""The updates of a run, one after another, and what is told about them."""

import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from sbs_jax.configs import TrainConfig
from sbs_jax.distributed import multihost
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline.batches import Batches, iterate
from sbs_jax.training import losses
from sbs_jax.training.metrics_writer import MetricsLog
from sbs_jax.training.train_step import FINITE_METRICS, TrainState
from sbs_jax.utils.console import say

# So many in a row are no bad batch but a broken run, also where single ones are skipped.
_MOST_SKIPPED = 10


class Meter:
    """The metrics of the updates since the last line of the log, fetched as late as possible.

    Args:
        last_checkpoint: gives the step of the newest one, for the error.
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
        """Takes the metrics of the update with batch `index`."""
        self._pending.append((index, metrics))

    def check(self) -> None:
        """Raises UserError for the first update whose loss or gradient is not finite.

        Where such updates are skipped, for the tenth in a row.
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
            if not self._skips or self._in_a_row == _MOST_SKIPPED:
                raise self._error(index, metrics)

    def _error(self, index: int, metrics: dict[str, np.ndarray]) -> UserError:
        passes = np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
        what = "the updated parameters are" if passes else "the loss or its gradient is"
        last = self._last_checkpoint()
        kept = "none yet" if last is None else f"that of step {last} is finite"
        again = f" {_MOST_SKIPPED} times in a row" if self._skips else ""
        skip = "to go on here, bind TrainConfig.on_nonfinite = 'skip' or 'reduce' (the rate); "
        other = "" if self._skips else skip
        return UserError(
            f"step {index + 1}: {what} not finite{again} (questions "
            f"{', '.join(self._batches.ids(index)[:8])}, ...); {other}or start in another "
            f"MODEL_DIR with a lower LEARNING_RATE or DTYPE = 'float32'. Checkpoints: {kept}"
        )

    def summarise(self) -> dict[str, float]:
        """The period's scalars, and a new period.

        Losses are token means over the period; learning_rate and grad_norm are of its last update.
        Updates that were skipped are only counted.
        """
        self.check()
        rows, skipped = self._finite, self._skipped
        self._finite, self._skipped = [], 0
        scalars = {"skipped_updates": float(skipped)} if skipped else {}
        if not rows:
            return scalars
        scalars["loss"] = float(np.mean([metrics["loss"] for metrics in rows]))
        for task in losses.TASKS:
            count = sum(float(metrics[f"{task}/tokens"]) for metrics in rows)
            if count:
                total = sum(float(metrics[f"{task}/loss_sum"]) for metrics in rows)
                hits = sum(float(metrics[f"{task}/correct_tokens"]) for metrics in rows)
                scalars[f"{task}/loss"] = total / count
                scalars[f"{task}/token_accuracy"] = hits / count
        scalars["learning_rate"] = float(rows[-1]["learning_rate"])
        scalars["grad_norm"] = float(rows[-1]["grad_norm"])
        return scalars


def run(
    first: int,
    state: TrainState,
    train_step: Callable,
    batches: Batches,
    partitioner: Partitioner,
    config: TrainConfig,
    log: MetricsLog,
    meter: Meter,
) -> Iterator[tuple[int, TrainState]]:
    """Yields (updates done, state) after every update; fetches and logs metrics once a period.

    What the caller does between two updates, such as an evaluation, is in no speed and no time.
    """
    updates = 0
    clock = _Clock()
    for index, batch in iterate(batches, first, config.train_steps, 2, partitioner.put_batch):
        state, metrics = train_step(state, batch)
        meter.add(index, metrics)
        multihost.sign_of_progress()
        done, updates = index + 1, updates + 1
        if index == first:
            jax.block_until_ready(metrics)
            say(f"first step (with compilation) after {clock.seconds()[0]:.1f} s")
        if done % config.log_period == 0 or done == config.train_steps or done == first + 1:
            scalars = meter.summarise()
            seconds, cpu_seconds = clock.seconds()
            scalars["examples_per_second"] = config.batch_size * updates / seconds
            left = None
            if done > first + 1:  # the first step's are the compiler's
                scalars["cpu_seconds"] = cpu_seconds
                left = seconds / updates * (config.train_steps - done)
            log.write(done, scalars)
            log.progress(done, scalars, left)
            updates, clock = 0, _Clock()
        clock.stop()
        yield done, state
        clock.start()


class _Clock:
    """Seconds by the wall and of the CPU while it is not stopped."""

    def __init__(self) -> None:
        self._passed = (0.0, 0.0)
        self.start()

    def start(self) -> None:
        self._began = (time.monotonic(), time.process_time())

    def stop(self) -> None:
        self._passed = self.seconds()

    def seconds(self) -> tuple[float, float]:
        """(wall, CPU); of a clock that runs."""
        now = (time.monotonic(), time.process_time())
        return tuple(p + n - b for p, n, b in zip(self._passed, now, self._began, strict=True))
