"""Names the leaves of trees: what to restore, and where two trees differ."""

from collections.abc import Mapping
from typing import Any

import jax


def abstract(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a tree; leaves without a sharding go to the first device."""
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or first
        ),
        tree,
    )


def leaves(tree: Any) -> dict[str, Any]:
    """{"params/decoder/...": leaf}, for dataclasses, tuples and dicts; arrays only."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(map(_name, path)): leaf for path, leaf in flat if hasattr(leaf, "shape")}


def _name(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def first_difference(
    saved: Mapping[str, Any], wanted: Mapping[str, Any], *, dtypes: bool
) -> tuple[str, str, str] | None:
    """(name, what is saved, what is wanted) of the first leaf that differs, by name; else None.

    A leaf is described by its shape, with its dtype in front if `dtypes`: ``float32[64, 128]``.
    """
    for name in sorted(wanted.keys() | saved.keys()):
        has, wants = (_describe(tree.get(name), dtypes) for tree in (saved, wanted))
        if has != wants:
            return name, has, wants
    return None


def _describe(leaf: Any, dtypes: bool) -> str:
    if leaf is None:
        return "missing"
    return f"{leaf.dtype if dtypes else ''}{list(leaf.shape)}"
