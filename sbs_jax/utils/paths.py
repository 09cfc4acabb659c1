"""Where packaged files and the user's data are, whatever the working directory.

The top-level folder ``gin/`` travels inside the wheel as ``sbs_jax/gin``; in a checkout (plain or
installed editable) it stands beside the package.
"""

import os
import pathlib

from sbs_jax.errors import UserError

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent

DATA_DIR_VARIABLE = "SBS_DATA_DIR"


def gin_dir() -> pathlib.Path:
    """The folder that holds ``experiments/`` and ``engines/``."""
    packaged = _PACKAGE / "gin"
    return packaged if packaged.is_dir() else _PACKAGE.parent / "gin"


def asset(name: str) -> pathlib.Path:
    """A data file shipped in ``sbs_jax/assets``, e.g. ``asset("demo.model")``.

    Raises:
        UserError: the installation lacks the file.
    """
    path = _PACKAGE / "assets" / name
    if not path.is_file():
        raise UserError(f"{path}: this file of the package is missing; install sbs_jax again")
    return path


def expanded(path: str) -> str:
    """The path with ``~``, ``~user`` and ``$VARIABLE`` replaced, as a shell would; URLs stay."""
    return path if "://" in path else os.path.expandvars(os.path.expanduser(path))


def cache_home() -> pathlib.Path:
    """``~/.cache/sbs_jax``: for everything that can be downloaded or computed again."""
    return pathlib.Path.home() / ".cache" / "sbs_jax"


def data_dir(flag: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Where ``sbs data`` writes DATASET/SPLIT.jsonl: flag, else $SBS_DATA_DIR, else cache."""
    chosen = flag or os.environ.get(DATA_DIR_VARIABLE)
    return pathlib.Path(chosen).expanduser() if chosen else cache_home() / "data"


def set_data_dir(folder: str | os.PathLike[str]) -> None:
    """Make ``data_dir()`` answer ``folder`` from now on, in worker processes too."""
    # An environment variable rather than a global: processes started later inherit it.
    os.environ[DATA_DIR_VARIABLE] = os.fspath(folder)
