"""Where jax keeps compiled programs, for a verb and for the workers that it starts."""

from pathlib import Path

from sbs_jax.utils import paths

DIRECTORY = "JAX_COMPILATION_CACHE_DIR"


def default_folder() -> Path:
    """'compiled' in the cache folder."""
    return paths.cache_home() / "compiled"


def settings(folder: str) -> dict[str, str | float]:
    """jax's variables, whose names in lower case are its options; a folder "" keeps nothing."""
    if not folder:
        return {DIRECTORY: folder}
    # From this time on: what draws parameters compiles for 0.1 s a program.
    return {DIRECTORY: folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": 0.05}
