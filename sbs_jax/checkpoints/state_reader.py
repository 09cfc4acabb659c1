"""Reads one checkpoint of a run into arrays with the shardings of today's mesh."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sbs_jax.checkpoints import orbax_setup, trees
from sbs_jax.checkpoints.orbax_setup import STATE
from sbs_jax.errors import UserError


class Damaged(Exception):
    """A checkpoint whose files have changed since they were written."""


class StateReader:
    """Reads steps of an Orbax CheckpointManager.

    Args:
        manager: of Orbax.
        directory: for messages.
        verified: whether a step's files are known to be what was written. An error in reading
            them is then no damage but something else.
    """

    def __init__(self, manager: Any, directory: str, verified: Callable[[int], bool]) -> None:
        self._manager, self._directory, self._verified = manager, directory, verified

    def state(self, step: int, abstract_state: Any) -> Any:
        """The state of a step.

        Raises:
            Damaged: the files cannot be read.
            UserError: a state of another model or optimizer.
        """
        import orbax.checkpoint as ocp

        abstract = trees.abstract(abstract_state)
        self._check_tree(step, trees.leaves(abstract), params_only=False)
        arguments = ocp.args.PyTreeRestore(
            item=abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)
        )
        return self._restore(step, arguments)

    def params(self, step: int, abstract_params: Any) -> Any:
        """The entry `params` of a step's state, cast to the given dtypes; raises as `state`."""
        import orbax.checkpoint as ocp

        abstract = {"params": trees.abstract(abstract_params)}
        self._check_tree(step, trees.leaves(abstract), params_only=True)
        arguments = ocp.args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
        return self._restore(step, arguments)["params"]

    def _restore(self, step: int, arguments: Any) -> Any:
        import orbax.checkpoint as ocp

        with self._blaming_files(step):
            args = ocp.args.Composite(**{STATE: arguments})
            return self._manager.restore(step, args=args)[STATE]

    def _check_tree(self, step: int, expected: dict[str, Any], *, params_only: bool) -> None:
        """Raises UserError for the first array that the checkpoint lacks, adds or has otherwise."""
        with self._blaming_files(step):
            saved = trees.leaves(self._manager.item_metadata(step)[STATE].tree)
        if params_only:
            saved = {name: leaf for name, leaf in saved.items() if name.startswith("params/")}
        difference = trees.first_difference(saved, expected, dtypes=not params_only)
        if difference:
            name, has, needs = difference
            raise UserError(
                f"{self._directory}/{step}: {name} is {has} in the checkpoint and {needs} in this "
                "run; use the model and optimizer it was trained with, or another MODEL_DIR"
            )

    @contextlib.contextmanager
    def _blaming_files(self, step: int) -> Iterator[None]:
        """Takes an error for damage, unless the files were verified."""
        try:
            yield
        except Exception as error:
            if self._verified(step):
                raise
            raise Damaged(orbax_setup.reason(error)) from error
