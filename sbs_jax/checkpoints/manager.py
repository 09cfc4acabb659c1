"""The checkpoints of a run: saved in the background, all or nothing, verified before they are used.

A thin layer over Orbax's CheckpointManager, which writes a checkpoint into a temporary folder and
renames it when it is complete. Added here: checksums, passing over a damaged checkpoint, keeping
the best on validation beside the latest, and one-line errors.
"""

import contextlib
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from sbs_jax.checkpoints import integrity, orbax_setup, scores, trees
from sbs_jax.checkpoints.orbax_setup import EXTRA, STATE
from sbs_jax.checkpoints.scores import Score
from sbs_jax.errors import UserError

_log = logging.getLogger(__name__)

T = TypeVar("T")

_MODES = {"max": 1.0, "min": -1.0}


class _Damaged(Exception):
    """A checkpoint whose files are not what was written."""


def newest_checkpoint(directory: Path) -> int | None:
    """Step of the newest complete checkpoint, intact or not; one half-written does not count."""
    steps = (int(entry.name) for entry in directory.glob("*") if entry.name.isdigit())
    return max(steps, default=None)


class Store:
    """The checkpoints under one directory, each in a folder named by its step.

    Args:
        directory: is created unless `read_only`.
        keep_latest: newest checkpoints kept.
        metric: name of the number by which checkpoints are ranked; None ranks none.
        keep_best: best-ranked checkpoints kept besides.
        mode: "max" if more is better, "min" if less is.
        asynchronous: `save` returns once the arrays are copied to the host; the files follow in a
            thread. Errors of that thread come up in the next `save`, `wait` or `close`.
        read_only: for a reader beside a running training: changes and removes nothing.

    Every process of a multi-process run makes the same calls in the same order.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        keep_latest: int = 1,
        metric: str | None = None,
        *,
        keep_best: int = 1,
        mode: str = "max",
        asynchronous: bool = True,
        read_only: bool = False,
    ) -> None:
        if keep_latest < 1:
            raise UserError(f"KEEP_LATEST = {keep_latest}: at least one checkpoint must be kept")
        self._directory = os.fspath(directory)
        if read_only and self._local and not self._local.is_dir():
            raise UserError(f"{directory}: no such directory; give the checkpoints of a run")
        self._keep_latest, self._keep_best = keep_latest, keep_best
        self._metric, self._sign = metric, _MODES[mode]
        self._asynchronous = asynchronous
        self._saving: int | None = None
        self._damaged: set[int] = set()
        self._broken = False
        self._manager = self._open(read_only)
        self._scores = self._read_scores()
        self.fingerprint = (
            next(reversed(self._scores.values())).fingerprint if self._scores else None
        )

    def _open(self, read_only: bool) -> Any:
        try:
            return orbax_setup.open_manager(
                str(self._local or self._directory),
                read_only=read_only,
                preservation_policy=self,
                before_commit=self._write_checksums,
            )
        except OSError as error:
            raise UserError(
                f"{self._directory}: cannot hold checkpoints ({orbax_setup.reason(error)}); "
                "check MODEL_DIR"
            ) from error

    # What is there

    def steps(self) -> list[int]:
        """Steps with a checkpoint not known to be damaged, oldest first."""
        return sorted(set(self._manager.all_steps()) - self._damaged)

    def latest_step(self) -> int | None:
        """The newest of `steps`."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The best of `steps` by the metric, the later of equals; None if none was measured."""
        return next(iter(self._ranked(self.steps())), None)

    def score(self, step: int) -> Score | None:
        """The score noted for a step, whatever questions it belongs to; None without one."""
        return self._scores.get(step)

    def _ranked(self, steps: Iterable[int]) -> list[int]:
        """Steps scored on the questions of `fingerprint`, the best first, the later of equals."""
        values = {
            step: self._sign * self._scores[step].value
            for step in steps
            if step in self._scores and self._scores[step].fingerprint == self.fingerprint
        }
        return sorted(values, key=lambda step: (values[step], step), reverse=True)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's preservation policy: the latest and the best stay, a damaged one never."""
        keep = self._kept({info.step for info in checkpoints} - self._damaged)
        return [info.step in keep for info in checkpoints]

    def _kept(self, steps: Iterable[int]) -> set[int]:
        latest = sorted(steps)[-self._keep_latest :]
        return {*latest, *self._ranked(steps)[: self._keep_best]}

    # Saving

    def save(
        self,
        step: int,
        state: Any,
        extra: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Saves a state unless this step is already there; older checkpoints go once it is safe.

        Args:
            state: pytree of jax or numpy arrays; may be donated as soon as this returns.
            extra: JSON values that come back from `restore_latest`.
            metrics: of this state; without a finite value of the store's metric it is never best.

        Raises:
            UserError: this or the previous checkpoint could not be written (disk full, quota,
                permissions). What was half-written is removed, older checkpoints are untouched.
        """
        import orbax.checkpoint as ocp

        self.wait()
        if step in self.steps():
            return
        finite = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
        note = {"step": step, "extra": dict(extra), "metrics": finite}
        arguments = ocp.args.Composite(
            **{STATE: ocp.args.PyTreeSave(state), EXTRA: ocp.args.JsonSave(note)}
        )
        self._saving = step
        self._scores.pop(step, None)
        if self._metric in finite:
            self._scores[step] = Score(finite[self._metric])
        try:
            if step in self._damaged:
                self._manager.delete(step)
                self._damaged.remove(step)
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
        self.fingerprint = fingerprint
        for step, value in values.items():
            self._scores.pop(step, None)
            if score := scores.finite(value, fingerprint):
                self._scores[step] = score
        if jax.process_index() == 0:
            try:
                scores.write(self._directory, str(self._metric), self._scores)
            except OSError as error:
                raise UserError(
                    f"{self._directory}/{scores.NAME}: cannot be written "
                    f"({orbax_setup.reason(error)}); make room, then start the same command again"
                ) from error
        for old in set(self.steps()) - self._kept(self.steps()):
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

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _failed_save(self, error: Exception) -> UserError:
        """Removes what a failed save left behind and words the error."""
        step, self._saving = self._saving, None
        self._scores.pop(step, None)
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
        self._manager = self._open(read_only=False)
        self._broken = False

    def _write_checksums(self) -> None:
        """Runs in Orbax's thread of the first host, just before the folder gets its final name."""
        for folder in self._unfinished(self._saving):
            integrity.write(folder)

    def _unfinished(self, step: int | None) -> list[Path]:
        return list(self._local.glob(f"{step}.orbax-checkpoint-tmp*")) if self._local else []

    @property
    def _local(self) -> Path | None:
        """The directory, or None in a bucket, whose files have checksums of their own."""
        return None if "://" in self._directory else Path(os.path.abspath(self._directory))

    # Restoring

    def restore_latest(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """(state, extra) of the newest checkpoint that is intact.

        A damaged one is reported in one line and passed over to the one before.

        Args:
            abstract_state: arrays or ShapeDtypeStructs, whose shardings the state gets.

        Raises:
            UserError: no usable checkpoint; or one of another model, naming the first parameter
                that differs and both shapes.
        """
        return self._first_intact(self.steps()[::-1], lambda step: self._read(step, abstract_state))

    def restore_best(self, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """As `restore_latest`, of the best checkpoint by the metric that is intact."""
        return self._first_intact(
            self._ranked(self.steps()), lambda step: self._read(step, abstract_state)
        )

    def restore(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        """As `restore_latest`, of this very step; UserError if it is missing or damaged."""
        self.require(step)
        return self._first_intact([step], lambda step: self._read(step, abstract_state))

    def restore_params(self, step: int | None, abstract_params: Any) -> Any:
        """Only the entry `params` of a state, cast to the dtypes asked for.

        Args:
            step: None takes the best checkpoint by the metric, else the newest, if intact.
            abstract_params: arrays or ShapeDtypeStructs with the shardings wanted.
        """
        if step is None:
            order = self._ranked(self.steps())
            order += [step for step in self.steps()[::-1] if step not in order]
        else:
            self.require(step)
            order = [step]
        return self._first_intact(order, lambda step: self._read_params(step, abstract_params))

    def require(self, step: int) -> None:
        """Raises UserError, naming the steps there are, unless `step` is one of them."""
        if step not in self.steps():
            known = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"{self._directory}: no usable checkpoint of step {step}; has {known}")

    def _first_intact(self, steps: Sequence[int], read: Callable[[int], T]) -> T:
        """What `read` returns for the first of these steps that turns out intact."""
        self.wait()
        for step in steps:
            try:
                self._verify(step)
                return read(step)
            except _Damaged as error:
                self._damaged.add(step)
                _log.warning(
                    "%s: the checkpoint of step %d is damaged (%s); it is passed over",
                    self._directory,
                    step,
                    error,
                )
        raise UserError(
            f"{self._directory}: no usable checkpoint"
            + (f", {len(self._damaged)} damaged" if self._damaged else "")
            + "; train from the start in another MODEL_DIR, or restore the files from a backup"
        )

    def _verify(self, step: int) -> None:
        """Raises _Damaged, on every host alike, if the files are not what was written."""
        if self._local is None:
            return
        folder = self._local / str(step)
        found = None
        if integrity.recorded(folder):
            found = integrity.damage(folder, jax.process_index(), jax.process_count())
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            anywhere = multihost_utils.process_allgather(np.array(found is not None))
            found = found or ("seen by another host" if anywhere.any() else None)
        if found:
            raise _Damaged(found)

    def _read(self, step: int, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
        import orbax.checkpoint as ocp

        abstract = trees.abstract(abstract_state)
        self._check_tree(step, trees.leaves(abstract), params_only=False)
        arguments = ocp.args.PyTreeRestore(
            item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)
        )
        restored = self._restore(step, {STATE: arguments, EXTRA: ocp.args.JsonRestore()})
        return restored[STATE], restored[EXTRA]["extra"]

    def _read_params(self, step: int, abstract_params: Any) -> Any:
        import orbax.checkpoint as ocp

        abstract = {"params": trees.abstract(abstract_params)}
        self._check_tree(step, trees.leaves(abstract), params_only=True)
        arguments = ocp.args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
        return self._restore(step, {STATE: arguments})[STATE]["params"]

    def _restore(self, step: int, items: dict[str, Any]) -> Any:
        import orbax.checkpoint as ocp

        with self._blaming_files(step):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _check_tree(self, step: int, wanted: dict[str, Any], *, params_only: bool) -> None:
        """Raises UserError for the first array that the checkpoint lacks, adds or has otherwise."""
        with self._blaming_files(step):
            saved = trees.leaves(self._manager.item_metadata(step)[STATE].tree)
        if params_only:
            saved = {name: leaf for name, leaf in saved.items() if name.startswith("params/")}
        difference = trees.first_difference(saved, wanted, dtypes=not params_only)
        if difference:
            name, has, wants = difference
            raise UserError(
                f"{self._directory}/{step}: {name} is {has} in the checkpoint and {wants} in this "
                "run; use the model and optimizer it was trained with, or another MODEL_DIR"
            )

    @contextlib.contextmanager
    def _blaming_files(self, step: int) -> Iterator[None]:
        """Takes an error for damage, unless the files were verified: then it is something else."""
        try:
            yield
        except Exception as error:
            if self._local and integrity.recorded(self._local / str(step)):
                raise
            raise _Damaged(orbax_setup.reason(error)) from error

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
