"""Small T5 checkpoints with random numbers, for tests of the formats."""

from collections.abc import Mapping

import numpy as np

from sbs_jax.checkpoints.formats.params import Checkpoint, LazyArray, shapes_of
from sbs_jax.configs import T5Config

SIZES = {
    "vocab_size": 384,
    "emb_dim": 16,
    "num_heads": 2,
    "num_encoder_layers": 2,
    "num_decoder_layers": 1,
    "head_dim": 8,
    "mlp_dim": 32,
    "dropout_rate": 0.1,
}
UNTIED = T5Config(**SIZES)
TIED = T5Config(**SIZES, mlp_activations=("relu",), logits_via_embedding=True)


def lazy(array: np.ndarray) -> LazyArray:
    return LazyArray(array.shape, array.dtype, lambda: array)


def checkpoint(config: T5Config = UNTIED, **fields: object) -> Checkpoint:
    rng = np.random.default_rng(0)
    params = {
        name: lazy(rng.normal(size=shape).astype(np.float32))
        for name, shape in shapes_of(config).items()
    }
    return Checkpoint("made", "memory", params, config, **fields)


def assert_same_params(
    found: Mapping[str, LazyArray], expected: Mapping[str, LazyArray | np.ndarray]
) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        wanted = array.read() if isinstance(array, LazyArray) else array
        value = found[name].read()
        assert (value.dtype, value.shape) == (wanted.dtype, wanted.shape), name
        assert found[name].shape == wanted.shape
        assert value.tobytes() == wanted.tobytes(), name
