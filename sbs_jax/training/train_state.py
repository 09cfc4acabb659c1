"""The state of a run: parameters, optimizer slots and counters, in two layouts.

Named: one array per layer under T5X's names. Checkpoints, evaluation and exports use this layout.
Stacked: the arrays of all layers of a stack in one, ``layers`` in place of ``layers_0``,
``layers_1``, ... An accelerator updates few large arrays much faster than many small ones, and a
program with fewer arguments starts sooner. The train step takes either.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models import parameters

_STACKED = "layers"


class TrainState(flax.struct.PyTreeNode):
    """The content of a checkpoint; leaves are arrays, or their shapes or shardings.

    Attributes:
        step: updates done so far, an int32 scalar.
        params: nested dict with T5X's names; matrices in `T5Config.param_dtype`, the rest float32.
        opt_state: the optimizer's slots, float32.
        rate_scale: what updates that were not finite have left of the learning rate, float32.
    """

    step: Any
    params: dict
    opt_state: optax.OptState
    rate_scale: Any


def init_state(
    config: T5Config,
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
    seed: int,
    params: dict | None = None,
) -> TrainState:
    """A fresh sharded state, from random parameters or from `params` (host or device arrays)."""
    shapes = abstract_state(config, optimizer, partitioner)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    if params is None:
        params = parameters.create(config, seed_argument(seed), shardings.params)
    else:
        cast = jax.tree.map(lambda leaf, shape: leaf.astype(shape.dtype), params, shapes.params)
        params = owned(jax.device_put(cast, shardings.params), partitioner)
    opt_state = jax.jit(optimizer.init, out_shardings=shardings.opt_state)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    rate_scale = jax.device_put(jnp.ones((), jnp.float32), shardings.rate_scale)
    return TrainState(step, params, opt_state, rate_scale)


def owned(tree: Any, partitioner: Partitioner) -> Any:
    """The same arrays in memory of jax's, which a step that is given them can use again.

    On a CPU `jax.device_put` and Orbax keep a numpy array's memory where it happens to be
    aligned, whatever `may_alias` says (findings/jax_device_put_may_alias.sh). The first step must
    copy such an array. The copy comes to lie behind the step's temporaries, whose memory then
    cannot grow for the next shape: glibc takes it a second time.
    """
    if partitioner.platform != "cpu":
        return tree
    return jax.tree.map(lambda leaf: jax.device_put(leaf, leaf.sharding, may_alias=False), tree)


def abstract_state(
    config: T5Config,
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
    stacked: bool = False,
) -> TrainState:
    """Shapes, dtypes and shardings of a state, without allocating it."""
    params = parameters.shapes(config)
    if stacked:
        params = jax.eval_shape(stack_layers, params)
    opt_state = jax.eval_shape(optimizer.init, params)
    step, rate_scale = (jax.ShapeDtypeStruct((), dtype) for dtype in (jnp.int32, jnp.float32))
    state = TrainState(step, params, opt_state, rate_scale)
    shardings = TrainState(
        partitioner.replicated,
        partitioner.param_shardings(params),
        partitioner.optimizer_shardings(optimizer, params, opt_state),
        partitioner.replicated,
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )


def is_stacked(params: dict) -> bool:
    """Whether these parameters are laid out with all layers of a stack in one array."""
    return _STACKED in params["encoder"]


def stack_layers(tree: Any, join: Callable = lambda *leaves: jnp.stack(leaves)) -> Any:
    """A tree of parameters or slots with the layers of each stack joined."""

    def joined(node: Any) -> Any:
        if not _is_stack(node):
            return node
        rest = {name: leaf for name, leaf in node.items() if not name.startswith("layers_")}
        layers = [node[f"layers_{i}"] for i in range(len(node) - len(rest))]
        return {**rest, _STACKED: jax.tree.map(join, *layers)}

    return jax.tree.map(joined, tree, is_leaf=_is_stack)


def unstack_layers(tree: Any, split: Callable = list) -> Any:
    """The inverse of `stack_layers`.

    Args:
        split: gives the arrays of the single layers.
    """

    def parted(node: Any) -> Any:
        if not _has_stacked(node):
            return node
        rest = {name: leaf for name, leaf in node.items() if name != _STACKED}
        leaves, structure = jax.tree.flatten(node[_STACKED])
        columns = zip(*map(split, leaves), strict=True)
        layers = {
            f"layers_{i}": jax.tree.unflatten(structure, column) for i, column in enumerate(columns)
        }
        return {**rest, **layers}

    return jax.tree.map(parted, tree, is_leaf=_has_stacked)


def _is_stack(node: Any) -> bool:
    return isinstance(node, dict) and "layers_0" in node


def _has_stacked(node: Any) -> bool:
    return isinstance(node, dict) and _STACKED in node


def _named(leaf: jax.Array) -> NamedSharding:
    """The sharding of an array of a state; the partitioner makes no other kind."""
    assert isinstance(leaf.sharding, NamedSharding)
    return leaf.sharding


def stacked_state(state: TrainState) -> TrainState:
    """The state laid out stacked, each array split over the devices as before.

    One array after another is joined and its parts deleted, so that no second state is in memory
    meanwhile.
    """

    def join(*leaves: jax.Array) -> jax.Array:
        old = _named(leaves[0])
        sharding = NamedSharding(old.mesh, PartitionSpec(None, *old.spec))
        return _consumed(_stacker(sharding), leaves)

    return state if is_stacked(state.params) else stack_layers(state, join)


def named_state(state: TrainState) -> TrainState:
    """The state under T5X's names: the inverse of `stacked_state`, equally sparing."""

    def split(leaf: jax.Array) -> list[jax.Array]:
        count, old = leaf.shape[0], _named(leaf)
        sharding = NamedSharding(old.mesh, PartitionSpec(*old.spec[1:]))
        return _consumed(_splitter(sharding, count), (leaf,))

    return unstack_layers(state, split) if is_stacked(state.params) else state


# Kept, so that arrays of one shape share a compiled program.
@functools.lru_cache(maxsize=64)
def _stacker(sharding: NamedSharding) -> Callable:
    return jax.jit(lambda *parts: jnp.stack(parts), out_shardings=sharding)


@functools.lru_cache(maxsize=64)
def _splitter(sharding: NamedSharding, count: int) -> Callable:
    return jax.jit(list, out_shardings=[sharding] * count)


def _consumed(function: Callable, leaves: tuple[jax.Array, ...]) -> Any:
    result = jax.block_until_ready(function(*leaves))
    for leaf in leaves:
        leaf.delete()
    return result


def seed_argument(seed: int) -> np.ndarray:
    """A seed as data: closed over, it would make another program to compile of every seed."""
    return np.asarray(seed % 2**32, np.uint32)
