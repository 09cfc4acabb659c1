"""Distilling Step-by-Step in JAX: small T5 students, a teacher's labels and rationales."""

import importlib
from types import ModuleType

__version__ = "0.1.0"

# Modules that published examples import from `sbs_jax`, and where they are now.
_FORMER_NAMES = {
    "records": "sbs_jax.datasets.records",
    "seqio_tasks": "sbs_jax.integrations.seqio_tasks",
    "tokens": "sbs_jax.input_pipeline.token_cache",
    "views": "sbs_jax.datasets.methods",
    "vocabularies": "sbs_jax.input_pipeline.vocabularies",
}


def __getattr__(name: str) -> ModuleType:
    """Imports a module under its former name, at its first use."""
    if name not in _FORMER_NAMES:
        raise AttributeError(f"module 'sbs_jax' has no attribute {name!r}")
    return importlib.import_module(_FORMER_NAMES[name])
