"""Registers the dataset of a run, ours or upstream T5X's: what its config.gin imports and calls."""

import os
import tempfile
from pathlib import Path

from sbs_jax.configs import gin_loader, t5x_config
from sbs_jax.errors import UserError
from sbs_jax.runs import layout, t5x_run
from sbs_jax.utils import buckets


def register(model_dir: str) -> None:
    """Imports the modules, and calls the functions, that define the run's dataset.

    Raises:
        UserError: no run is there, or a module that it needs.
    """
    if t5x_run.is_one(model_dir):
        _register_t5x(model_dir)
        return
    config = buckets.place(model_dir) / layout.CONFIG_GIN
    if not config.is_file():
        raise UserError(f"{config}: not there; --model_dir is the MODEL_DIR of sbs train or T5X")
    with buckets.local_copy(config) as file:
        scan = gin_loader.load([file], [])
        if "MODEL_DIR" in scan.macros:  # the folder may have been moved, with its records
            scan = gin_loader.load([file], [f"MODEL_DIR = {model_dir!r}"])
    gin_loader.build("configs.TrainConfig", scan)


def _register_t5x(model_dir: str) -> None:
    """The same from what gin can read of T5X's config.gin here."""
    t5x_run.load(model_dir)  # what is wrong with the folder is said before anything is imported
    config = buckets.place(model_dir) / layout.CONFIG_GIN
    with buckets.local_copy(config) as file, tempfile.TemporaryDirectory() as folder:
        readable = Path(folder) / layout.CONFIG_GIN
        readable.write_text(t5x_config.without_t5x(file), encoding="utf-8")
        try:
            gin_loader.load([os.fspath(readable)], [], translate=False)
        except UserError as error:  # with the line of the file that the user has
            raise UserError(str(error).replace(os.fspath(readable), str(config))) from None
