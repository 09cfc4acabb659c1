"""Locates packaged files, the user's data and caches, whatever the working directory.

The top-level folder ``gin/`` travels inside the wheel as ``sbs_jax/gin``; in a checkout (plain or
installed editable) it lies next to the package.
"""

import contextlib
import functools
import os
import pathlib
import re
import subprocess
import tempfile

from sbs_jax.errors import UserError
from sbs_jax.utils.console import say

DATA_DIR_VARIABLE = "SBS_DATA_DIR"
CACHE_DIR_VARIABLE = "SBS_CACHE_DIR"

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")
# ``gs:/bucket`` is what pathlib makes of ``gs://bucket``. One letter before the colon is a drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


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


@functools.cache
def git_commit() -> str:
    """The commit that this package runs from, "-dirty" with changes; empty outside a checkout."""
    root = _PACKAGE.parent
    if not (root / ".git").exists():
        return ""
    command = ("git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path names a scheme, such as ``gs://bucket/x``, rather than a local file."""
    return _SCHEME.match(os.fspath(path)) is not None


def expand(path: str | os.PathLike[str]) -> str:
    """A path as the user means it: ``~``, ``~name``, ``$NAME`` and ``${NAME}`` are replaced.

    Web addresses are returned as they are, and so is the name of an existing file that contains
    a ``$``.

    Raises:
        UserError: a variable that is not set, or a home folder that does not exist.
    """
    text = os.fspath(path)
    if text.startswith(("http://", "https://")) or os.path.exists(text):
        return text
    expanded = os.path.expandvars(text)
    for name in (match[1].strip("{}") for match in _VARIABLE.finditer(text)):
        if name not in os.environ:
            raise UserError(f"{text}: the variable ${name} is not set; set it or give the path")
    home = os.path.expanduser(expanded)
    if home.startswith("~"):
        owner = home.partition("/")[0]
        raise UserError(f"{text}: {owner} has no home folder here; give the path in full")
    return home


def local(path: str | os.PathLike[str]) -> str:
    """`expand`, for a file or folder that must be on this machine.

    Raises:
        UserError: as `expand`, and for a bucket or another address.
    """
    expanded = expand(path)
    if is_remote(expanded):
        raise UserError(
            f"{expanded}: not a local path; copy it here, or mount the bucket (gcsfuse) and give "
            "the folder it is mounted at"
        )
    return expanded


def cache_home() -> pathlib.Path:
    """The folder for files that can be downloaded or computed again.

    The first of: `set_cache_dir`, $SBS_CACHE_DIR, $XDG_CACHE_HOME/sbs_jax, ~/.cache/sbs_jax, and,
    where neither of the last two can be written, a folder below the system's temporary one, which
    a line on stderr names.

    Raises:
        UserError: the folder that the user chose cannot be written.
    """
    chosen = os.environ.get(CACHE_DIR_VARIABLE)
    if chosen:
        folder = pathlib.Path(local(chosen))
        if reason := _not_writable(folder):
            raise UserError(
                f"{folder}: the cache folder cannot be written ({reason}); choose another with "
                f"--cache_dir or ${CACHE_DIR_VARIABLE}"
            )
        return folder
    reasons = []
    for folder in _homes():
        reason = _not_writable(folder)
        if not reason:
            return folder
        reasons.append(f"{folder} cannot be written ({reason})")
    return _temporary("; ".join(reasons) or "this account has no home folder")


def set_cache_dir(folder: str | os.PathLike[str]) -> None:
    """Makes `cache_home` return `folder` from now on, in worker processes too."""
    os.environ[CACHE_DIR_VARIABLE] = os.path.abspath(local(folder))


def data_dir(flag: str | os.PathLike[str] | None = None) -> pathlib.Path:
    """Where ``sbs data`` writes DATASET/SPLIT.jsonl: the flag, else $SBS_DATA_DIR, else the cache.

    Raises:
        UserError: for a bucket or another address that is not a local folder.
    """
    chosen = flag or os.environ.get(DATA_DIR_VARIABLE)
    if chosen:
        return pathlib.Path(local(chosen))
    if cache := os.environ.get(CACHE_DIR_VARIABLE):
        return pathlib.Path(local(cache)) / "data"
    # Data written before $XDG_CACHE_HOME was set are still found.
    return _first_there(_data_of_homes() or [cache_home() / "data"])


def data_address() -> str:
    """Where datasets are read: `data_dir`, or the bucket that was chosen.

    Data written before the cache folder was chosen are still found.
    """
    chosen = os.environ.get(DATA_DIR_VARIABLE)
    return expand(chosen) if chosen else os.fspath(_first_there([data_dir(), *_data_of_homes()]))


def set_data_dir(folder: str | os.PathLike[str]) -> None:
    """Makes `data_dir` return `folder` from now on, in worker processes too."""
    # An environment variable rather than a global: processes started later inherit it.
    text = expand(folder)
    os.environ[DATA_DIR_VARIABLE] = text if is_remote(text) else os.path.abspath(text)


def _homes() -> list[pathlib.Path]:
    """The cache folders of this account, the preferred one first; none without a home."""
    homes = []
    if os.path.isabs(xdg := os.environ.get("XDG_CACHE_HOME", "")):  # its specification says so
        homes.append(pathlib.Path(xdg) / "sbs_jax")
    with contextlib.suppress(RuntimeError):  # no $HOME, and no entry for this user number
        homes.append(pathlib.Path.home() / ".cache" / "sbs_jax")
    return homes


def _data_of_homes() -> list[pathlib.Path]:
    return [home / "data" for home in _homes()]


def _first_there(folders: list[pathlib.Path]) -> pathlib.Path:
    """The first folder that exists, else the first."""
    return next((folder for folder in folders if folder.is_dir()), folders[0])


def _not_writable(folder: pathlib.Path) -> str:
    """Why nothing can be written into a folder, which is created; empty when it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


@functools.cache
def _temporary(reason: str) -> pathlib.Path:
    folder = pathlib.Path(tempfile.gettempdir()) / f"sbs_jax-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        private = status.st_uid == os.getuid() and status.st_mode & 0o077 == 0
        if not private or not folder.is_dir():  # anybody may create names in a temporary folder
            folder = pathlib.Path(tempfile.mkdtemp(prefix="sbs_jax-"))
    except OSError as error:
        raise UserError(
            f"no folder for the cache: {reason}, and {folder} cannot be made ({error.strerror}); "
            f"choose one with --cache_dir or ${CACHE_DIR_VARIABLE}"
        ) from None
    say(f"cache: {reason}; using {folder}; choose with --cache_dir or ${CACHE_DIR_VARIABLE}")
    return folder
