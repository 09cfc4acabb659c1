"""Reads an Orbax folder array by array, by name: of our runs and of upstream T5X's."""

from typing import Any

import numpy as np
from etils import epath

from sbs_jax.checkpoints import orbax_setup, trees
from sbs_jax.checkpoints.formats.params import LazyArray, nested
from sbs_jax.errors import UserError
from sbs_jax.utils.buckets import AnyPath


def read(state: AnyPath) -> dict[str, LazyArray]:
    """Every array of the folder, its numbers not yet read.

    Raises UserError if its description cannot be read; an array's own damage shows when it is read.
    """
    import orbax.checkpoint as ocp

    orbax_setup.silence_orbax()
    checkpointer = ocp.PyTreeCheckpointer()
    try:
        # The checkpointer's own metadata() wants a file that T5X writes one folder above.
        tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(state)).tree
    except Exception as error:
        raise UserError(f"{state}: cannot be read ({orbax_setup.reason(error)})") from None

    def array(name: str, leaf: Any) -> LazyArray:
        shape, dtype = tuple(leaf.shape), np.dtype(leaf.dtype)

        def read_array() -> np.ndarray:
            wanted = nested({name: np.broadcast_to(np.zeros((), dtype), shape)})
            arguments = ocp.args.PyTreeRestore(
                item=wanted,
                restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                partial_restore=True,
            )
            try:
                (value,) = trees.leaves(checkpointer.restore(state, args=arguments)).values()
            except Exception as error:
                raise UserError(f"{state}: {name}: {orbax_setup.reason(error)}") from None
            return value

        return LazyArray(shape, dtype, read_array)

    return {name: array(name, leaf) for name, leaf in trees.leaves(tree).items()}
