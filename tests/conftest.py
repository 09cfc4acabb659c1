"""Strict settings of every test run, and the fixtures that find the reference data.

Everything here is set through the environment, before anything imports jax: child processes that a
test starts inherit it, and tests that need no jax do not pay for importing it.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import signal
from collections.abc import Iterator

import pytest
from helpers.cloud_storage import CloudStorage
from helpers.serving import serving

DEVICES = 8

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Most of the time of the tests is spent compiling programs that run for milliseconds: without
# LLVM's optimisation and XLA's fusion emitters they take a third of it. Where $XLA_FLAGS sets a
# level, both stay; `make test-slow` repeats the comparison with the original's training so.
_FLAGS = os.environ.get("XLA_FLAGS", "")
if "xla_backend_optimization_level" not in _FLAGS:
    _FLAGS += " --xla_backend_optimization_level=0"
    if importlib.metadata.version("jaxlib").startswith("0.10."):  # 0.12 ends at a flag it lost
        _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{_FLAGS} --xla_force_host_platform_device_count={DEVICES}".strip()
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
if importlib.util.find_spec("gcsfs"):  # as `buckets.prefer_gcsfs`: etils asks once per process
    os.environ["EPATH_USE_TF"] = "false"
    # Read when gcsfs is imported; emulators lack what it would ask by gRPC before every request.
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

# A shell script that starts the tests in the background has them ignore SIGINT, and their child
# processes inherit that: tests of Ctrl-C would wait in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent

# Compiled programs of other tests, processes and earlier runs are used again: most programs are
# compiled in less than the second from which JAX keeps them by default, and by several tests.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.03")


@pytest.fixture(autouse=True)
def _folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders that a verb chooses by a flag end with the test."""
    for name in ("SBS_DATA_DIR", "SBS_CACHE_DIR", "TFDS_DATA_DIR"):
        if name in os.environ:
            monkeypatch.setenv(name, os.environ[name])
        else:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """Reference data and vectors: the folder $SBS_SHARED, else ``shared`` beside the checkout."""
    folder = pathlib.Path(os.environ.get("SBS_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} is missing (set SBS_SHARED)")
    return folder


@pytest.fixture(scope="session")
def cloud_storage() -> Iterator[CloudStorage]:
    """Google Cloud Storage on this machine; one a process: clients read its address once."""
    pytest.importorskip("gcsfs", reason="needs gcsfs: pip install '.[gcs]'")
    from tensorboardX import record_writer  # seconds of imports

    # It uploads events once more when the process ends, after this server.
    del record_writer.GCSRecordWriter.__del__
    with serving(CloudStorage()) as server:
        os.environ.update(server.variables)
        yield server


@pytest.fixture(scope="session")
def release_dir(shared: pathlib.Path) -> pathlib.Path:
    """The original's released archive, unpacked."""
    return shared / "data" / "release"
