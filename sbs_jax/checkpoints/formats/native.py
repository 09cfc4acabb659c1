"""Our own checkpoints as parameters alone: a MODEL_DIR or one step of it, read and written.

A conversion writes a MODEL_DIR whose ``checkpoints/STEP`` is as training's, but holds parameters
only.
"""

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import Future as Result
from pathlib import Path
from typing import Any

import numpy as np

from sbs_jax.checkpoints import integrity, orbax_setup
from sbs_jax.checkpoints.formats import orbax_arrays
from sbs_jax.checkpoints.formats.params import Checkpoint, LazyArray, as_float32, config_of, nested
from sbs_jax.checkpoints.manager import Store
from sbs_jax.configs import TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import vocabularies

CHECKPOINTS = "checkpoints"
SPIECE = "spiece.model"
_RUN = "run.json"
_PARAMS = "params/"


def read(path: str) -> Checkpoint:
    """The parameters of a MODEL_DIR (its best checkpoint on validation, else its newest) or of
    one step, ``MODEL_DIR/checkpoints/STEP``.

    Raises UserError if there is no checkpoint, or a damaged one.
    """
    folder = _step_folder(Path(path))
    model_dir = folder.parent.parent
    if integrity.recorded(folder):
        found = integrity.damage(folder)
        if found:
            raise UserError(f"{folder}: damaged ({found}); copy it again")
    state = folder / orbax_setup.STATE
    params = {
        name.removeprefix(_PARAMS): as_float32(array, name, str(folder))
        for name, array in orbax_arrays.read(state).items()
        if name.startswith(_PARAMS)
    }
    model, vocabulary = _told(model_dir / _RUN)
    config = config_of(params, str(folder), model.get("dropout_rate"))
    return Checkpoint("sbs", str(folder), params, config, int(folder.name), vocabulary)


def _step_folder(path: Path) -> Path:
    if path.name.isdigit() and (path / orbax_setup.STATE).is_dir():
        return path.absolute()
    checkpoints = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    with Store(checkpoints, metric="accuracy", read_only=True) as store:
        best = store.best_step()
        step = best if best is not None else store.latest_step()
    if step is None:
        raise UserError(f"{checkpoints}: holds no checkpoint")
    return checkpoints.absolute() / str(step)


def _told(run: Path) -> tuple[dict, str | None]:
    """The model and the vocabulary that a run's run.json names, if there is one."""
    try:
        fields = json.loads(run.read_text(encoding="utf-8"))
        return fields["model"], fields["vocabulary"] or None
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{run}: cannot be read; copy it again") from None


def write(folder: Path, checkpoint: Checkpoint, model_dir: Path | None = None) -> None:
    """Writes a MODEL_DIR: checksummed ``checkpoints/STEP``, run.json and the vocabulary's file.

    One array at a time is read. `restored.load_student` loads it, INITIAL_CHECKPOINT_PATH takes it.

    Args:
        folder: is created.
        model_dir: what the folder will be called in the end; default: `folder`.
    """
    _register_lazy_arrays()
    folder.mkdir(parents=True)
    with Store(folder / CHECKPOINTS, asynchronous=False) as store:
        store.save(checkpoint.step, {"params": nested(checkpoint.params)}, {})
    model_dir = model_dir or folder
    vocabulary = checkpoint.vocabulary or ""
    if vocabulary and vocabulary not in vocabularies.NAMES:
        shutil.copyfile(vocabularies.model_path(vocabulary), folder / SPIECE)
        vocabulary = os.path.abspath(model_dir / SPIECE)
    described = TrainConfig(
        model_dir=os.fspath(model_dir),
        mixture_or_task_name="",  # no task of ours: these are parameters from elsewhere
        task_feature_lengths={"inputs": 1024, "targets": 256},
        train_steps=max(checkpoint.step, 1),
        model=checkpoint.config,
        vocabulary=vocabulary,
    )
    fields = {**dataclasses.asdict(described), "fingerprints": {}}
    (folder / _RUN).write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


@functools.cache
def _register_lazy_arrays() -> None:
    """Teaches Orbax to save a LazyArray: as a numpy array that is read when its turn comes."""
    import orbax.checkpoint as ocp

    orbax_setup.silence_orbax()  # it warns that two types are stored alike

    class InTurn(ocp.type_handlers.NumpyHandler):
        """Orbax hands over all arrays of a tree together; here the next waits for the last."""

        async def serialize(
            self, values: Sequence[LazyArray], infos: Sequence[Any], args: Any = None
        ) -> list[Any]:
            write_one = super().serialize
            args = args or [ocp.SaveArgs()] * len(values)
            for value, info, arg in zip(values, infos, args, strict=True):
                array = np.ascontiguousarray(value.read())
                for commit in await write_one([array], [info], [arg]):
                    commit.result()
            done: Result = Result()
            done.set_result(None)
            return [done]

    handler = InTurn(deepcopy_host_arrays=False)
    ocp.type_handlers.register_type_handler(LazyArray, handler, override=True)
