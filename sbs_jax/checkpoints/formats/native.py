"""Reads and writes the parameters of our checkpoints: of a MODEL_DIR or one step of it.

A conversion writes a MODEL_DIR whose ``checkpoints/STEP`` is as training's, but holds parameters
only.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Sequence
from concurrent.futures import Future as Result
from typing import Any

import numpy as np

from sbs_jax.checkpoints import integrity, orbax_setup
from sbs_jax.checkpoints.formats.orbax_arrays import OrbaxFolder
from sbs_jax.checkpoints.formats.params import Checkpoint, LazyArray, as_float32, config_of, nested
from sbs_jax.checkpoints.manager import CheckpointManager
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.runs import layout
from sbs_jax.utils.buckets import AnyPath, absolute, place
from sbs_jax.utils.files import write_bytes, write_lines

CHECKPOINTS = layout.CHECKPOINTS
_PARAMS = "params/"


def read(path: str, step: int | None = None) -> Checkpoint:
    """The parameters of a MODEL_DIR or of one step, ``MODEL_DIR/checkpoints/STEP``.

    Args:
        path: of either; a MODEL_DIR gives its best checkpoint on validation, else its newest.
        step: of a MODEL_DIR; None takes the best.

    Raises UserError if there is no such checkpoint, or a damaged one.
    """
    folder = _step_folder(place(path), step)
    model_dir = folder.parent.parent
    if integrity.recorded(folder):
        damage = integrity.damage(folder)
        if damage:
            raise UserError(f"{folder}: damaged ({damage}); copy it again{_intact_beside(folder)}")
    state = OrbaxFolder(folder / orbax_setup.STATE)
    params = {
        name.removeprefix(_PARAMS): as_float32(array, name, str(folder))
        for name, array in state.arrays.items()
        if name.startswith(_PARAMS)
    }
    model, vocabulary = _described(model_dir)
    config = config_of(params, str(folder), model.get("dropout_rate"))
    return Checkpoint(
        "sbs",
        str(folder),
        params,
        config,
        int(folder.name),
        vocabulary,
        read_together=functools.partial(state.read, _PARAMS),
    )


def _step_folder(path: AnyPath, step: int | None) -> AnyPath:
    if step is None and path.name.isdigit() and (path / orbax_setup.STATE).is_dir():
        return absolute(path)
    checkpoints = path if path.name == CHECKPOINTS else path / CHECKPOINTS
    with CheckpointManager(checkpoints, metric="accuracy", read_only=True) as store:
        if step is not None:
            store.require(step)
        best = store.best_step() if step is None else step
        step = best if best is not None else store.latest_step()
    if step is None:
        raise UserError(f"{checkpoints}: holds no checkpoint")
    return absolute(checkpoints) / str(step)


def _intact_beside(folder: AnyPath) -> str:
    """What names the newest intact checkpoint of the same run; empty without one."""
    others = (other for other in folder.parent.iterdir() if other.name.isdigit())
    for other in sorted(others, key=lambda other: int(other.name), reverse=True):
        if integrity.recorded(other) and not integrity.damage(other):
            return f", or take {other}, which is intact (--step={other.name})"
    return ""


def _described(model_dir: AnyPath) -> tuple[dict, str | None]:
    """The model and the vocabulary that the run, or else the conversion, wrote down.

    A vocabulary that lies in the folder is found there, wherever the folder was moved.
    """
    inside = model_dir / layout.SPIECE
    for path in (model_dir / layout.RUN, model_dir / layout.MODEL):
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            spec = str(inside) if inside.is_file() else fields["vocabulary"]
            return fields["model"], spec or None
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path}: cannot be read; copy it again") from None
    return {}, None


def write(folder: AnyPath, checkpoint: Checkpoint, model_dir: AnyPath | None = None) -> None:
    """Writes a MODEL_DIR: checksummed ``checkpoints/STEP``, model.json and the vocabulary's file.

    One array at a time is read. `read` and INITIAL_CHECKPOINT_PATH take the folder.

    Args:
        folder: is created.
        model_dir: what the folder will be called in the end; default: `folder`.
    """
    _register_lazy_arrays()
    folder.mkdir(parents=True)
    with CheckpointManager(folder / CHECKPOINTS, asynchronous=False) as store:
        store.save(checkpoint.step, {"params": nested(checkpoint.params)})
    model_dir = model_dir or folder
    vocabulary = checkpoint.vocabulary or ""
    if vocabulary and vocabulary not in vocabularies.NAMES:
        write_bytes(folder / layout.SPIECE, vocabularies.model_path(vocabulary).read_bytes())
        vocabulary = os.path.abspath(model_dir / layout.SPIECE)
    fields = {"model": dataclasses.asdict(checkpoint.config), "vocabulary": vocabulary}
    write_lines(folder / layout.MODEL, [json.dumps(fields, indent=2) + "\n"])


@functools.cache
def _register_lazy_arrays() -> None:
    """Makes Orbax save a LazyArray as a numpy array, read when its turn comes."""
    import orbax.checkpoint as ocp

    orbax_setup.silence_orbax()  # it warns that two types are stored alike

    class InTurn(ocp.type_handlers.NumpyHandler):
        """Writes arrays one after another; Orbax passes all arrays of a tree at once."""

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
