"""The checkpoints of a run: saved in the background, all or nothing, verified before they are used.

A layer over Orbax's CheckpointManager, which writes a checkpoint into a temporary folder and
renames it when it is complete; in a bucket an object marks what is complete. Added here: checksums,
falling back where a checkpoint is damaged, and one-line errors; `retention` decides what is kept,
`state_reader` reads.
"""

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from sbs_jax.checkpoints import integrity, orbax_setup, scores
from sbs_jax.checkpoints.orbax_setup import STATE
from sbs_jax.checkpoints.retention import Retention
from sbs_jax.checkpoints.scores import Score
from sbs_jax.checkpoints.state_reader import Damaged, StateReader
from sbs_jax.errors import UserError
from sbs_jax.utils.buckets import AnyPath
from sbs_jax.utils.paths import is_remote

_log = logging.getLogger(__name__)

_COMMITTED = "commit_success.txt"

T = TypeVar("T")


def newest_checkpoint(directory: AnyPath) -> int | None:
    """Step of the newest complete checkpoint, intact or not; one half-written does not count."""
    steps = (int(entry.name) for entry in directory.glob("*") if entry.name.isdigit())
    if is_remote(directory):  # Orbax's mark there, in place of the rename of a folder
        steps = (step for step in steps if (directory / str(step) / _COMMITTED).exists())
    return max(steps, default=None)


class CheckpointManager:
    """The checkpoints under one directory, each in a folder named by its step.

    Args:
        directory: is created unless `read_only`.
        max_to_keep: number of newest checkpoints kept.
        metric: name of the number by which checkpoints are ranked, more is better; None ranks none.
        keep_best: number of best-ranked checkpoints kept in addition.
        asynchronous: `save` returns once the arrays are copied to the host; the files follow in a
            thread. Errors of that thread come up in the next `save`, `wait` or `close`.
        read_only: for a reader during a training: changes and removes nothing.

    Every process of a multi-process run makes the same calls in the same order.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        max_to_keep: int = 1,
        metric: str | None = None,
        *,
        keep_best: int = 1,
        asynchronous: bool = True,
        read_only: bool = False,
    ) -> None:
        if max_to_keep < 1:
            raise UserError(f"keep_latest = {max_to_keep}: at least one checkpoint must be kept")
        self._directory = os.fspath(directory)
        if read_only and self._local and not self._local.is_dir():
            raise UserError(f"{directory}: no such directory; give the checkpoints of a run")
        self._metric = metric
        self._asynchronous = asynchronous
        self._saving: int | None = None
        self._broken = False
        self._retention = Retention(max_to_keep, keep_best)
        self._open(read_only)
        self._retention.scores = self._read_scores()
        if self._retention.scores:
            newest = next(reversed(self._retention.scores.values()))
            self._retention.fingerprint = newest.fingerprint

    def _open(self, read_only: bool) -> None:
        try:
            self._manager = orbax_setup.open_manager(
                str(self._local or self._directory),
                read_only=read_only,
                preservation_policy=self._retention,
                before_commit=self._write_checksums,
            )
        except OSError as error:
            raise UserError(
                f"{self._directory}: cannot hold checkpoints ({orbax_setup.reason(error)}); "
                "check MODEL_DIR"
            ) from error
        self._reader = StateReader(self._manager, self._directory, self._has_checksums)

    # What is there

    def steps(self) -> list[int]:
        """Steps with a checkpoint not known to be damaged, oldest first."""
        return sorted(set(self._manager.all_steps()) - self._retention.damaged)

    def latest_step(self) -> int | None:
        """The newest of `steps`."""
        return max(self.steps(), default=None)

    def ranked_steps(self) -> list[int]:
        """The measured ones of `steps`, best first (ties: the later one)."""
        return self._retention.ranked(self.steps())

    def best_step(self) -> int | None:
        """The first of `ranked_steps`; None if none was measured."""
        return next(iter(self.ranked_steps()), None)

    @property
    def fingerprint(self) -> str | None:
        """Of the questions whose scores are compared now."""
        return self._retention.fingerprint

    def score(self, step: int) -> Score | None:
        """The score noted for a step, whatever questions it belongs to; None without one."""
        return self._retention.scores.get(step)

    # Saving

    def save(self, step: int, state: Any) -> None:
        """Saves a state unless this step is already there; older checkpoints go once it is safe.

        Args:
            state: pytree of jax or numpy arrays; may be donated as soon as this returns.

        Raises:
            UserError: this or the previous checkpoint could not be written (disk full, quota,
                permissions). What was half-written is removed, older checkpoints are untouched.
        """
        import orbax.checkpoint as ocp

        self.wait()
        if step in self.steps():
            return
        arguments = ocp.args.Composite(**{STATE: ocp.args.PyTreeSave(state)})
        self._saving = step
        self._retention.scores.pop(step, None)
        try:
            if step in self._retention.damaged:
                self._manager.delete(step)
                self._retention.damaged.remove(step)
            self._manager.save(step, args=arguments, force=True)
        except Exception as error:
            raise self._failed_save(error) from error
        if not self._asynchronous:
            self.wait()

    def note(self, values: Mapping[int, float], fingerprint: str | None) -> None:
        """Records scores of saved steps, and removes what is neither latest nor best now.

        Args:
            values: score by step; NaN or infinity is never best.
            fingerprint: of what was scored. From here on checkpoints with a score of the same
                fingerprint are ranked, and no others.

        Raises:
            UserError: scores.json cannot be written, or the save in progress failed.
        """
        self.wait()
        self._retention.fingerprint = fingerprint
        for step, value in values.items():
            self._retention.scores.pop(step, None)
            if score := scores.finite(value, fingerprint):
                self._retention.scores[step] = score
        if jax.process_index() == 0:
            try:
                scores.write(self._directory, str(self._metric), self._retention.scores)
            except OSError as error:
                raise UserError(
                    f"{self._directory}/{scores.NAME}: cannot be written "
                    f"({orbax_setup.reason(error)}); make room, then start the same command again"
                ) from error
        for old in set(self.steps()) - self._retention.kept(self.steps()):
            self._manager.delete(old)

    def wait(self) -> None:
        """Blocks until the save in progress is on disk. Raises UserError if it failed."""
        if self._broken:
            self._reopen()
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed_save(error) from error
        self._saving = None

    def close(self) -> None:
        """Waits for the save in progress and ends the threads. Raises UserError if it failed."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _failed_save(self, error: Exception) -> UserError:
        """Removes what a failed save left behind and words the error."""
        step, self._saving = self._saving, None
        if step is not None:
            self._retention.scores.pop(step, None)
        if jax.process_index() == 0:
            self._remove_unfinished(step)
        self._manager.reload()
        self._broken = True
        last = self.latest_step()
        intact = "there is none before it" if last is None else f"that of step {last} is intact"
        return UserError(
            f"{self._directory}: the checkpoint of step {step} could not be written "
            f"({orbax_setup.reason(error)}); {intact}; make room, then start the same command again"
        )

    def _remove_unfinished(self, step: int | None) -> None:
        # Writes still under way may make the folder again; the next start removes what is left.
        for _ in range(20):
            for partial in self._unfinished(step):
                shutil.rmtree(partial, ignore_errors=True)
            time.sleep(0.02)

    def _reopen(self) -> None:
        """A new manager: after a failed save the old one raises errors left over in its threads."""
        for _ in ("what finalizes", "what writes"):
            with contextlib.suppress(Exception):
                self._manager.close()
        self._open(read_only=False)
        self._broken = False

    def _write_checksums(self) -> None:
        """Runs in Orbax's thread of the first host, just before the folder gets its final name."""
        for folder in self._unfinished(self._saving):
            integrity.write(folder)

    def _unfinished(self, step: int | None) -> list[AnyPath]:
        return list(self._local.glob(f"{step}.orbax-checkpoint-tmp*")) if self._local else []

    @property
    def _local(self) -> AnyPath | None:
        """The directory, or None in a bucket, whose files have checksums of their own."""
        return None if is_remote(self._directory) else Path(os.path.abspath(self._directory))

    # Restoring

    def restore_latest(self, abstract_state: Any) -> Any:
        """The state of the newest checkpoint that is intact.

        A damaged one is reported in one line and skipped; the previous one is tried.

        Args:
            abstract_state: arrays or ShapeDtypeStructs, whose shardings the state gets.

        Raises:
            UserError: no usable checkpoint; or one of another model, naming the first parameter
                that differs and both shapes.
        """
        self.wait()
        for step in self.steps()[::-1]:
            try:
                return self._intact(step, self._reader.state, abstract_state)
            except Damaged as error:
                _log.warning(
                    "%s: the checkpoint of step %d is damaged (%s); trying the previous one",
                    self._directory,
                    step,
                    error,
                )
        raise UserError(
            f"{self._directory}: no usable checkpoint"
            + (f", {len(self._retention.damaged)} damaged" if self._retention.damaged else "")
            + "; train from the start in another MODEL_DIR, or restore the files from a backup"
        )

    def restore_params(self, step: int, abstract_params: Any) -> Any:
        """Only the entry `params` of a step's state, cast to the given dtypes.

        Args:
            abstract_params: arrays or ShapeDtypeStructs with the shardings wanted.

        Raises:
            UserError: the checkpoint is missing, damaged, or of another model.
        """
        self.wait()
        self.require(step)
        try:
            return self._intact(step, self._reader.params, abstract_params)
        except Damaged as error:
            raise UserError(
                f"{self._directory}/{step}: damaged ({error}); restore it from a backup"
            ) from error

    def require(self, step: int) -> None:
        """Raises UserError, naming the steps there are, unless `step` is one of them."""
        if step not in self.steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"{self._directory}: no usable checkpoint of step {step}; has {known}")

    def _intact(self, step: int, read: Callable[[int, Any], T], abstract: Any) -> T:
        """What `read` returns for a step. Raises Damaged, and notes the step as such."""
        try:
            self._verify(step)
            return read(step, abstract)
        except Damaged:
            self._retention.damaged.add(step)
            raise

    def _verify(self, step: int) -> None:
        """Raises Damaged, on every host alike, if the files are not what was written."""
        if self._local is None:
            return
        damage = None
        if self._has_checksums(step):
            folder = self._local / str(step)
            damage = integrity.damage(folder, jax.process_index(), jax.process_count())
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            anywhere = multihost_utils.process_allgather(np.array(damage is not None))
            damage = damage or ("seen by another host" if anywhere.any() else None)
        if damage:
            raise Damaged(damage)

    def _has_checksums(self, step: int) -> bool:
        return self._local is not None and integrity.recorded(self._local / str(step))

    def _read_scores(self) -> dict[int, Score]:
        """Those of scores.json last: they are the newer ones."""
        noted = scores.read(self._directory, self._metric)
        inside = {
            step: score
            for step in self._manager.all_steps()
            if step not in noted
            and (score := scores.saved_inside(self._directory, step, self._metric))
        }
        return {**inside, **noted}
