"""Examples as text: records, sources, splits, methods and the registry of datasets."""

from sbs_jax.datasets.records import Record
from sbs_jax.datasets.registry import Dataset, add_dataset, get, names, resolve

__all__ = ["Dataset", "Record", "add_dataset", "get", "names", "resolve"]
