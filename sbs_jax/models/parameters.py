"""Shapes of a T5's parameters, and random values for them without compiling the model.

``Transformer.init`` under jit is one program with an initialiser per array: 11 seconds of
compilation for T5-base. Here every distinct (initialiser, shape) is one small program, called once
per array with the key that Flax would have used, so the values of a seed are the same
(tests/models/test_parameters.py compares them bit for bit).
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.core.scope import LazyRng
from jax.sharding import NamedSharding
from jaxtyping import Array, UInt

from sbs_jax.configs import T5Config
from sbs_jax.models import layers, t5

_fan_in = functools.partial(nn.initializers.variance_scaling, mode="fan_in")

# Initialiser by the end of a parameter's name, given the config; the layers hold the same ones.
_INITIALIZERS: dict[str, Callable[[T5Config], Callable]] = {
    "token_embedder/embedding": lambda config: nn.initializers.normal(stddev=1.0),
    "relpos_bias/rel_embedding": lambda config: nn.initializers.variance_scaling(
        1.0, "fan_avg", "uniform"
    ),
    "logits_dense/kernel": lambda config: _fan_in(1.0, distribution="truncated_normal"),
    "query/kernel": lambda config: _fan_in(1.0 / config.head_dim, distribution="normal"),
    "kernel": lambda config: _fan_in(1.0, distribution="normal"),
    "scale": lambda config: nn.initializers.ones,
}

# XLA's options on a CPU: half the compile time or less; speed and values stay (tested).
_QUICK: dict[str, int | bool] = {"xla_backend_optimization_level": 1}
if jax.__version_info__ < (0, 11):  # gone in 0.12, whose own are as quick
    _QUICK["xla_cpu_use_fusion_emitters"] = False


@functools.lru_cache(maxsize=4)
def shapes(config: T5Config) -> dict:
    """Shape and dtype of every parameter: a tree of jax.ShapeDtypeStruct."""
    return jax.eval_shape(lambda: t5.init_params(config, jax.random.key(0)))


def create(config: T5Config, seed: UInt[np.ndarray, ""], shardings: dict | None = None) -> dict:
    """Random parameters: the values of ``init_params(config, jax.random.key(seed))``.

    Args:
        shardings: where each parameter lives; default: the default device.
    """
    drawn = [program(key) for program, key in draws(config, seed, shardings)]
    return jax.tree.unflatten(jax.tree.structure(shapes(config)), drawn)


def draws(
    config: T5Config, seed: UInt[np.ndarray, ""], shardings: dict | None = None
) -> Iterator[tuple[Callable[[UInt[np.ndarray, "2"]], Array], UInt[np.ndarray, "2"]]]:
    """For each parameter, in the order of `shapes`: the program that draws it, and its key."""
    leaves = jax.tree_util.tree_leaves_with_path(shapes(config))
    places = [None] * len(leaves) if shardings is None else jax.tree.leaves(shardings)
    rng = jax.random.key(seed)
    for (path, leaf), place in zip(leaves, places, strict=True):
        names = tuple(entry.key for entry in path)
        # Flax folds the module's path and the number of keys it has used into the rng.
        key = LazyRng.create(rng, *names[:-1], 1).as_jax_rng()
        program = _program(config, _kind(names), leaf.shape, leaf.dtype, place)
        yield program, np.asarray(jax.random.key_data(key))


def _kind(names: tuple[str, ...]) -> str:
    for suffix in ("/".join(names[-2:]), names[-1]):
        if suffix in _INITIALIZERS:
            return suffix
    raise KeyError(f"parameter {'/'.join(names)} has no entry in parameters._INITIALIZERS")


@functools.lru_cache(maxsize=64)
def _program(
    config: T5Config,
    kind: str,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    sharding: NamedSharding | None,
) -> Callable[[UInt[np.ndarray, "2"]], Array]:
    initializer = layers.rounded(_INITIALIZERS[kind](config))

    def draw(key_data: UInt[Array, "2"]) -> Array:
        return initializer(jax.random.wrap_key_data(key_data), shape, dtype)

    quick = _QUICK if jax.default_backend() == "cpu" else None
    return jax.jit(draw, out_shardings=sharding, compiler_options=quick)
