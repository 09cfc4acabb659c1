"""Folders in Google Cloud Storage: how `gs://` addresses are opened, and what is refused.

Files go through etils.epath over gcsfs, arrays through TensorStore, as Orbax has it; the extra
``gcs`` installs what that needs. Credentials come from the environment (Application Default
Credentials) and are never read or printed here.
"""

import contextlib
import errno
import functools
import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, cast

from sbs_jax.errors import UserError
from sbs_jax.utils.paths import is_remote

# Local paths and etils' have the same methods, but at run time only this class in common.
if TYPE_CHECKING:
    AnyPath = Path
else:
    AnyPath = PurePath

_SCHEME = "gs://"
_EMULATOR = "STORAGE_EMULATOR_HOST"  # the variable of Google's own clients


def place(path: str | os.PathLike[str]) -> Path:
    """A local path as it is, or a `gs://` address as an etils path, which has the same methods.

    Raises:
        UserError: gcsfs is not installed.
    """
    if not os.fspath(path).startswith(_SCHEME):
        return Path(path)
    _need_gcsfs(os.fspath(path))
    _set_up()
    from etils import epath

    return cast(Path, epath.Path(path))


def can_list(path: str | os.PathLike[str]) -> bool:
    """Whether it can be listed here: a local path, or a `gs://` address if gcsfs is there."""
    return not is_remote(path) or (os.fspath(path).startswith(_SCHEME) and _has_gcsfs())


@contextlib.contextmanager
def local_copy(path: Path) -> Iterator[str]:
    """The name of a local file with this content, for readers that take no addresses."""
    if not is_remote(path):
        yield os.fspath(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(read_bytes(path))
        yield os.fspath(copy)


def resolved(path: Path) -> Path:
    """`Path.resolve`; an address is absolute already."""
    return path if is_remote(path) else path.resolve()


def absolute(path: AnyPath) -> AnyPath:
    """`Path.absolute`, which etils' paths get wrong."""
    return path if is_remote(path) else path.absolute()


def make_folder(path: Path) -> None:
    """Makes a local folder and its parents; a bucket has objects only.

    Raises:
        OSError: the folder cannot be made.
    """
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def read_bytes(path: Path) -> bytes:
    """The content of a file, or of an object at one moment.

    gcsfs' files ask for size and content separately: where another process writes the object
    between the two, the content is cut off.
    """
    if not is_remote(path):
        return path.read_bytes()
    place(path)  # sets the clients up
    import fsspec

    # With the arguments of etils it is the client that etils has; another one would log in again.
    client = fsspec.filesystem("gcs", finalize_on_close=True)
    return cast(bytes, client.cat_file(os.fspath(path)))


def key_value_store(folder: str, retries: int = 32) -> Any:
    """The objects of a folder, for writes under a precondition: TensorStore's store.

    Args:
        folder: a `gs://` address.
        retries: of a request that the service or the network fails.
    """
    import tensorstore

    place(folder)  # sets the clients up
    context = tensorstore.Context({"gcs_request_retries": {"max_retries": retries}})
    return tensorstore.KvStore.open(f"{folder.rstrip('/')}/", context=context).result()


def create(path: Path, content: bytes) -> None:
    """Writes an object that is not there; of several processes one succeeds.

    A process whose write arrives while the answer is lost is refused by its own object.

    Raises:
        FileExistsError: the object is there.
    """
    store = key_value_store(os.fspath(path.parent))
    before = store.read(path.name).result()
    if before.state != "value":
        stamp = store.write(path.name, content, if_equal=before.stamp.generation).result()
        if stamp.generation:
            return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))


def version(path: Path) -> tuple[int, int]:
    """(size, time of the last change in ns): changes with a file, cheaper than its content."""
    status = path.stat()
    if is_remote(path):
        return status.length, status.mtime * 10**9  # type: ignore[attr-defined]
    return status.st_size, status.st_mtime_ns


def prefer_gcsfs() -> None:
    """Has etils read buckets through gcsfs where it is installed, rather than TensorFlow.

    Call it early: etils asks once per process. TensorFlow's file system takes seconds to import,
    remembers listings that other processes change, and cannot be pointed at a test server.
    """
    if _has_gcsfs():
        os.environ.setdefault("EPATH_USE_TF", "false")


def require(address: str, name: str) -> None:
    """Refuses an address that is no folder of a bucket that can be used here; asks no server.

    Args:
        name: of the setting, for the message.

    Raises:
        UserError: another scheme than ``gs://``, no bucket, or gcsfs is not installed.
    """
    if not is_remote(address):
        return
    if not address.startswith(_SCHEME):
        raise UserError(
            f"{name} {address}: only local folders and gs:// work here; mount the bucket "
            "(gcsfuse, s3fs) with renames of folders, and give the folder it is mounted at"
        )
    bucket, _, folder = address.removeprefix(_SCHEME).partition("/")
    if not bucket or not folder.strip("/"):
        raise UserError(f"{name} {address}: give bucket and folder, gs://BUCKET/FOLDER")
    _need_gcsfs(f"{name} {address}")


def _has_gcsfs() -> bool:
    return importlib.util.find_spec("gcsfs") is not None


def _need_gcsfs(what: str) -> None:
    if not _has_gcsfs():
        raise UserError(f"{what}: needs gcsfs; run: pip install 'sbs_jax[gcs]'")


def reach(address: str, name: str) -> None:
    """Asks once for the folder of a bucket, so that what is wrong with it is known at the start.

    Raises:
        UserError: as `require`, or the bucket cannot be read.
    """
    require(address, name)
    if not is_remote(address):
        return
    try:
        place(address).exists()
    except Exception as error:
        raise UserError(
            f"{name} {address}: the bucket cannot be read ({reason(error)}); check its name, your "
            "permissions, and `gcloud auth application-default login`"
        ) from None


def is_client_error(error: Exception) -> bool:
    """Whether a client of the store raised it; theirs have no common base."""
    return type(error).__module__.partition(".")[0] in ("aiohttp", "gcsfs", "google")


def reason(error: BaseException) -> str:
    """The first line of what the store or a client of it says."""
    text = str(error).partition(" [")[0].strip() or type(error).__name__
    return text.splitlines()[0][:200]


@functools.cache
def _set_up() -> None:
    """Makes the clients of this process see what others write, and follow an emulator."""
    prefer_gcsfs()
    # It warns about buckets whose type it may not ask for, and then works.
    logging.getLogger("gcsfs").setLevel(logging.ERROR)
    if address := os.environ.get(_EMULATOR):
        url = address if "://" in address else f"http://{address}"
        os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", url)
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # emulators lack gRPC
    import fsspec

    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
