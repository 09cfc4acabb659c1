"""Random tokenised examples and a small model for them."""

import numpy as np

from sbs_jax.configs import T5Config
from sbs_jax.input_pipeline import packing

CONFIG = T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
)


def examples(seed: int, count: int = 24) -> list[packing.Example]:
    rng = np.random.default_rng(seed)

    def ids(low: int, high: int) -> np.ndarray:
        return np.append(rng.integers(3, 64, rng.integers(low, high)), 1).astype(np.int32)

    return [(ids(2, 10), ids(1, 3) if i % 2 else ids(3, 8), 1 + i % 2) for i in range(count)]
