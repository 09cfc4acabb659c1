"""How a verb that computes uses the machine: its compile cache, memory on a CPU, XLA on a GPU."""

import ctypes
import importlib.util
import os
import platform
import sys
from collections.abc import Mapping

from absl import flags

from sbs_jax.errors import UserError
from sbs_jax.utils import compile_cache
from sbs_jax.utils.console import say

# mallopt's parameters (malloc.h) and values, with the variable that gives a child process the same.
# All three are needed: XLA frees its temporaries after every call, and what glibc returns to the
# system is paid for again in page faults, a fifth of the CPU time of a step (docs/input.md).
_RETAIN = {
    "MALLOC_ARENA_MAX": (-8, 1, "1"),
    "MALLOC_MMAP_MAX_": (-4, 0, "0"),
    "MALLOC_TRIM_THRESHOLD_": (-1, -1, str(2**62)),  # never
}
# What NVIDIA's images of jax set: collectives overlap computation. One GPU has none.
_XLA_FLAGS = "XLA_FLAGS"
_GPU_FLAGS = "--xla_gpu_enable_latency_hiding_scheduler=true"
_GPU_FILES = ("/dev/nvidia0", "/dev/kfd")
_MAX_BYTES = "JAX_COMPILATION_CACHE_MAX_SIZE"


def define(values: flags.FlagValues) -> None:
    """Adds the flags that `start` reads."""
    flags.DEFINE_string(
        "compilation_cache_dir",
        None,
        "Folder that keeps compiled programs for the next start; '' keeps none. Default: "
        f"${compile_cache.DIRECTORY}, else 'compiled' in the cache folder.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "retain_memory",
        True,
        "On a CPU (glibc), keep freed memory for the next step instead of returning it to the "
        "system: fewer page faults, a higher peak. Variables MALLOC_* or GLIBC_TUNABLES win.",
        flag_values=values,
    )


def start(values: flags.FlagValues) -> None:
    """Sets up this process and its children, before jax starts; `$XLA_FLAGS` is left as it is.

    Raises UserError for a cache folder that cannot be written.
    """
    if values.retain_memory and on_cpu(os.environ):
        retain_memory()
    if on_gpu(os.environ):
        os.environ.setdefault(_XLA_FLAGS, _GPU_FLAGS)
    use_compilation_cache(values.compilation_cache_dir)


def on_cpu(environment: Mapping[str, str]) -> bool:
    """Whether jax will compute on the CPU, as far as can be known without starting it.

    JAX_PLATFORMS decides; else an installed plugin or a device file of a GPU or TPU.
    """
    if chosen := _chosen_platform(environment):
        return chosen == "cpu"
    return not any(map(os.path.exists, (*_GPU_FILES, "/dev/accel0", "/dev/vfio/0")))


def on_gpu(environment: Mapping[str, str]) -> bool:
    """As `on_cpu`, for a GPU."""
    if chosen := _chosen_platform(environment):
        return chosen in ("cuda", "gpu", "rocm")
    return any(map(os.path.exists, _GPU_FILES))


def _chosen_platform(environment: Mapping[str, str]) -> str:
    return environment.get("JAX_PLATFORMS", "").split(",")[0].strip()


def retain_memory() -> bool:
    """Makes glibc keep freed memory in this process and in those it starts.

    Returns:
        Whether it did: not without glibc, nor where the user has set malloc already.
    """
    chosen = ("GLIBC_TUNABLES", "LD_PRELOAD", *_RETAIN)
    if platform.libc_ver()[0] != "glibc" or any(os.environ.get(name) for name in chosen):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    accepted = [mallopt(parameter, value) for parameter, value, _ in _RETAIN.values()]
    os.environ.update({name: text for name, (_, _, text) in _RETAIN.items()})
    return all(accepted)


def use_compilation_cache(folder: str | None) -> None:
    """Keeps compiled programs in `folder`; None: the default, "": nowhere.

    Several processes may share a folder of ours: as its size is limited, jax locks it for every
    access. A folder that the user's own variable names is left to the user's other variables.
    """
    if folder is None and compile_cache.DIRECTORY in os.environ:
        return
    chosen = str(compile_cache.default_folder()) if folder is None else folder
    if chosen and (problem := _cannot_write(chosen)):
        if folder is None:
            say(f"{chosen}: {problem}; compiled programs are not kept")
            return
        raise UserError(
            f"--compilation_cache_dir={folder}: {problem}; choose another folder, or '' for none"
        )
    settings = compile_cache.settings(chosen)
    if chosen and importlib.util.find_spec("filelock"):
        settings[_MAX_BYTES] = 4 * 2**30
    for name, value in settings.items():
        os.environ[name] = str(value)
        if "jax" in sys.modules:  # it has read its variables
            sys.modules["jax"].config.update(name.lower(), value or None)


def _cannot_write(folder: str) -> str:
    """Creates the folder; returns the reason why it cannot be written, or ""."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        return error.strerror or str(error)
    return "" if os.access(folder, os.W_OK) else "no permission to write"
