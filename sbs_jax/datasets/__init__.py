"""Examples as text: records, sources, splits, methods and the registry of datasets."""

from typing import TYPE_CHECKING, Any

from sbs_jax.datasets.records import Record

if TYPE_CHECKING:
    from sbs_jax.datasets.registry import Dataset, add_dataset, get, names, resolve

__all__ = ["Dataset", "Record", "add_dataset", "get", "names", "resolve"]


def __getattr__(name: str) -> Any:
    """Imports the registry when it is first used: records alone need no numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sbs_jax.datasets import registry

    return getattr(registry, name)
