"""Examples as text: records, sources, splits, methods and the registry of datasets."""

from sbs_jax.datasets.registry import add_dataset

__all__ = ["add_dataset"]
