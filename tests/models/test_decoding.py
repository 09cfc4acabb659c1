"""Greedy decoding: the argmax chain of the full model, each row for itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models import decoding, t5
from sbs_jax.models.t5 import Transformer

CONFIG = T5Config(
    vocab_size=300,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=2,
    head_dim=8,
    mlp_dim=32,
)
LENGTH = 7


@pytest.fixture(scope="module")
def params() -> dict:
    return t5.init_params(CONFIG, jax.random.key(5))


def questions(rows: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    tokens = np.zeros((rows, width), np.int32)
    for row in range(rows):
        size = rng.integers(2, 9)
        tokens[row, :size] = rng.integers(3, 300, size)
    return tokens


def decode(params: dict, tokens: np.ndarray, partitioner: Partitioner | None = None) -> np.ndarray:
    partitioner = partitioner or Partitioner(devices=jax.devices()[:1])
    ids = decoding.greedy(
        params,
        partitioner.put_rows(tokens),
        config=CONFIG,
        partitioner=partitioner,
        max_decode_length=LENGTH,
    )
    return partitioner.fetch(ids)


@jax.jit
def whole_logits(params: dict, source: jax.Array, target: jax.Array) -> jax.Array:
    batch = {
        "encoder_input_tokens": source,
        "encoder_segment_ids": (source > 0).astype(jnp.int32),
        "decoder_input_tokens": target,
        "decoder_segment_ids": jnp.ones_like(target),
    }
    return Transformer(CONFIG).apply({"params": params}, batch)


def without_cache(params: dict, tokens: np.ndarray) -> np.ndarray:
    """The whole model run again for every token; later positions cannot reach earlier ones."""
    target = np.zeros((len(tokens), LENGTH + 1), np.int32)
    for index in range(LENGTH):
        logits = whole_logits(params, tokens, target[:, :-1])
        target[:, index + 1] = np.argmax(logits[:, index], axis=-1)
    output = target[:, 1:]
    ended = np.cumsum(output == decoding.EOS_ID, axis=1) - (output == decoding.EOS_ID)
    return np.where(ended > 0, 0, output)


def test_greedy_is_the_chain_of_most_likely_tokens(params):
    tokens = questions(5, 10)
    np.testing.assert_array_equal(decode(params, tokens), without_cache(params, tokens))


@pytest.mark.slow
def test_batch_order_padding_and_mesh_change_nothing(params):
    tokens = questions(16, 10)
    whole = decode(params, tokens)
    order = np.argsort((tokens > 0).sum(axis=1), kind="stable")
    np.testing.assert_array_equal(decode(params, tokens[order]), whole[order])
    np.testing.assert_array_equal(decode(params, np.pad(tokens, ((0, 0), (0, 22)))), whole)
    np.testing.assert_array_equal(decode(params, tokens, Partitioner(num_partitions=2)), whole)
    for row in range(3):
        np.testing.assert_array_equal(decode(params, tokens[row : row + 1])[0], whole[row])


@pytest.mark.parametrize("last_width", [11, 70])  # the memories of both parts are 64 wide, or 128
def test_parts_of_a_batch_are_the_batch(params, last_width):
    tokens = questions(7, 11)
    wide = np.pad(tokens[4:], ((0, 0), (0, last_width - 11)))
    one = Partitioner(devices=jax.devices()[:1])
    found = decoding.greedy(
        params,
        [one.put_rows(part) for part in (tokens[:4, :9], wide)],
        config=CONFIG,
        partitioner=one,
        max_decode_length=LENGTH,
    )
    np.testing.assert_array_equal(one.fetch(found), decode(params, tokens))


def test_nothing_follows_the_end_and_empty_rows_stay_empty(params):
    eager = jax.tree.map(lambda x: x, params)
    kernel = eager["decoder"]["logits_dense"]["kernel"]
    eager["decoder"]["logits_dense"]["kernel"] = kernel.at[:, decoding.EOS_ID].mul(30.0)
    tokens = np.concatenate([questions(6, 10), np.zeros((2, 10), np.int32)])
    found = decode(eager, tokens)
    ended = found == decoding.EOS_ID
    assert ended[:6].any(), "the scaled EOS logit ends some row"
    for row, ends in zip(found[:6], ended[:6], strict=True):
        if ends.any():
            assert (row[ends.argmax() + 1 :] == 0).all()
    assert (found[6:] == 0).all()


@pytest.mark.parametrize("size", [5, 128, 300])
def test_first_argmax_takes_the_first_of_equals(size):
    logits = np.random.default_rng(1).integers(0, 4, (40, size)).astype(np.float32)
    found = decoding.first_argmax(jnp.asarray(logits))
    np.testing.assert_array_equal(found, np.argmax(logits, axis=-1))
