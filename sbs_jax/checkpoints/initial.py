"""INITIAL_CHECKPOINT_PATH: parameters to start from, in whatever format the path holds."""

from pathlib import Path

import jax
import numpy as np

from sbs_jax.checkpoints import hf
from sbs_jax.configs import T5Config
from sbs_jax.errors import UserError
from sbs_jax.model import init_params


def load_params(path: str, config: T5Config) -> dict:
    """Float32 parameters on the host.

    Raises UserError if the path holds no known checkpoint, or one that does not fit `config`
    (naming the first parameter that differs).
    """
    folder = Path(path)
    weights = folder / "model.safetensors" if folder.is_dir() else folder
    if weights.suffix != ".safetensors" or not weights.is_file():
        raise UserError(
            f"INITIAL_CHECKPOINT_PATH {path}: no checkpoint found; give a Hugging Face folder with "
            "model.safetensors, or None to start from random parameters"
        )
    params = hf.load_params(weights)
    _check_shapes(params, config, path)
    return params


def _check_shapes(params: dict, config: T5Config, path: str) -> None:
    wanted = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    wanted_shapes = {jax.tree_util.keystr(k): v.shape for k, v in _leaves(wanted)}
    found_shapes = {jax.tree_util.keystr(k): v.shape for k, v in _leaves(params)}
    for name in sorted(wanted_shapes.keys() | found_shapes.keys()):
        have, need = found_shapes.get(name), wanted_shapes.get(name)
        if have != need:
            raise UserError(
                f"INITIAL_CHECKPOINT_PATH {path}: parameter {name} is {have or 'absent'} there and "
                f"{need or 'absent'} in the model; choose the model file of the same size"
            )


def _leaves(tree: dict) -> list[tuple[tuple, np.ndarray]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]
