"""Reads arrays of an Orbax folder by name, one or several: of our runs and of upstream T5X's."""

import functools
from collections.abc import Iterable

import numpy as np
from etils import epath

from sbs_jax.checkpoints import orbax_setup, trees
from sbs_jax.checkpoints.formats.params import LazyArray, nested
from sbs_jax.errors import UserError
from sbs_jax.utils.buckets import AnyPath


class OrbaxFolder:
    """The arrays of an Orbax folder, their numbers not yet read.

    Attributes:
        arrays: by name, each readable alone.

    Raises UserError if its description cannot be read; an array's own damage shows when it is read.
    """

    def __init__(self, state: AnyPath) -> None:
        import orbax.checkpoint as ocp

        orbax_setup.silence_orbax()
        self._state = state
        self._checkpointer = ocp.PyTreeCheckpointer()
        try:
            # The checkpointer's own metadata() wants a file that T5X writes one folder above.
            tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(state)).tree
        except Exception as error:
            raise UserError(f"{state}: cannot be read ({orbax_setup.reason(error)})") from None
        self.arrays = {
            name: LazyArray(
                tuple(leaf.shape), np.dtype(leaf.dtype), functools.partial(self._read_one, name)
            )
            for name, leaf in trees.leaves(tree).items()
        }

    def read(self, under: str, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Several arrays at once: Orbax reads its description of all arrays at every call.

        Args:
            under: the names' common beginning, which the result leaves out.

        Raises UserError if one of them is damaged; TensorStore's words name it.
        """
        import orbax.checkpoint as ocp

        full = {name: under + name for name in names}
        wanted = nested({name: self._placeholder(name) for name in full.values()})
        arguments = ocp.args.PyTreeRestore(
            item=wanted,
            restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
            partial_restore=True,
        )
        try:
            values = trees.leaves(self._checkpointer.restore(self._state, args=arguments))
        except Exception as error:
            one = f": {next(iter(full))}" if len(full) == 1 else ""
            raise UserError(f"{self._state}{one}: {orbax_setup.reason(error)}") from None
        return {name: values[key] for name, key in full.items()}

    def _read_one(self, name: str) -> np.ndarray:
        return self.read("", [name])[name]

    def _placeholder(self, name: str) -> np.ndarray:
        array = self.arrays[name]
        return np.broadcast_to(np.zeros((), array.dtype), array.shape)
