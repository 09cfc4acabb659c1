"""Parameters drawn one by one are those that the model would initialise."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from helpers import xla

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models import parameters, t5

TINY = T5Config(192, 32, 4, 2, 2, 8, 48, dropout_rate=0.1)
VARIANTS = {
    "v1.1": TINY,
    "1.0": dataclasses.replace(TINY, mlp_activations=("relu",), logits_via_embedding=True),
    "bfloat16": dataclasses.replace(TINY, param_dtype="bfloat16", dtype="bfloat16"),
    "one layer": dataclasses.replace(TINY, num_encoder_layers=1, num_decoder_layers=1),
    "half layer": dataclasses.replace(
        TINY, num_encoder_layers=1, num_decoder_layers=1, param_dtype="bfloat16"
    ),
    "wide heads": dataclasses.replace(TINY, num_heads=2, head_dim=32),
}


LONG = ("v1.1", "1.0", "bfloat16", "wide heads")  # to compile


def assert_same(drawn, whole):
    assert jax.tree.structure(drawn) == jax.tree.structure(whole)
    for a, b in zip(jax.tree.leaves(drawn), jax.tree.leaves(whole), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
    ("seed", "name"),
    [
        pytest.param(seed, name, marks=pytest.mark.slow if name in LONG else [])
        for seed, name in enumerate(VARIANTS)
    ],
)
def test_values_are_those_of_the_models_own_initialisers(seed, name):
    config, seed = VARIANTS[name], np.asarray(2**32 - 1 - seed, np.uint32)
    init = jax.jit(
        lambda seed: t5.init_params(config, jax.random.key(seed)), compiler_options=xla.OPTIMISED
    )
    whole = init(seed)
    assert_same(parameters.create(config, seed), whole)


def test_bfloat16_values_are_those_of_float32_rounded():
    """Drawn in bfloat16 they would have 128 values (findings/jax_random_bfloat16.sh)."""
    seed = np.asarray(3, np.uint32)
    wide, found = (parameters.create(VARIANTS[name], seed) for name in ("one layer", "half layer"))
    for ours, exact in zip(jax.tree.leaves(found), jax.tree.leaves(wide), strict=True):
        np.testing.assert_array_equal(ours, exact.astype(ours.dtype))
    assert len(np.unique(found["token_embedder"]["embedding"])) > 1000


def test_values_do_not_depend_on_the_mesh():
    partitioner = Partitioner(num_partitions=2, fsdp=2)
    shardings = partitioner.param_shardings(parameters.shapes(TINY))
    seed = np.asarray(3, np.uint32)
    drawn = parameters.create(TINY, seed, shardings)
    assert jax.tree.map(lambda leaf: leaf.sharding, drawn) == shardings
    assert_same(drawn, parameters.create(TINY, seed))


def test_more_layers_compile_nothing_more(caplog):
    """One program per initialiser and shape, whatever the depth."""

    def compiled(layers):
        parameters._program.cache_clear()
        config = dataclasses.replace(TINY, num_encoder_layers=layers, num_decoder_layers=layers)
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            caplog.clear()
            parameters.create(config, np.asarray(1, np.uint32))
        return sum("Finished XLA compilation of jit(draw)" in line for line in caplog.messages)

    assert 0 < compiled(2) == compiled(6) <= 10
