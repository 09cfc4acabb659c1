"""Rows of a table decoded in batches, whose inputs are encoded in parts."""

import jax
import numpy as np
import pytest
from helpers.tables import MemoryTable

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.evaluation.decoder import Decoder
from sbs_jax.models import decoding, t5

CONFIG = T5Config(300, 16, 2, 1, 1, 8, 32)
LENGTH = 4


class Questions(MemoryTable):
    """Random inputs of given lengths."""

    def __init__(self, lengths: list[int]) -> None:
        super().__init__(lengths, [0] * len(lengths))
        rng = np.random.default_rng(0)
        self._rows = [rng.integers(3, 300, size).astype(np.int32) for size in lengths]

    def inputs(self, row: int) -> np.ndarray:
        return self._rows[row]


@pytest.fixture(scope="module")
def params() -> dict:
    return t5.init_params(CONFIG, jax.random.key(5))


def decoder(partitioner: Partitioner | None = None) -> Decoder:
    partitioner = partitioner or Partitioner(devices=jax.devices()[:1])
    return Decoder(CONFIG, partitioner, None, batch_size=32)


@pytest.mark.parametrize("devices", [1, 2])  # one encodes parts of a batch, two the whole
def test_every_row_has_the_output_that_it_has_alone(params, devices):
    partitioner = Partitioner(devices=jax.devices()[:devices])
    table = Questions([2, 70, 9, 1, 33, *range(20, 60)])
    rows = np.arange(1, len(table.input_lengths))[::-1]
    found = decoder(partitioner).ids(params, table, rows, LENGTH)
    one = Partitioner(devices=jax.devices()[:1])
    for row, output in zip(rows.tolist(), found, strict=True):
        alone = decoding.greedy(
            params,
            one.put_rows(np.pad(table.inputs(row), (0, 80 - len(table.inputs(row))))[None]),
            config=CONFIG,
            partitioner=one,
            max_decode_length=LENGTH,
        )
        np.testing.assert_array_equal(output, one.fetch(alone)[0])


def test_a_width_compiles_the_encoder_and_not_the_decoder(params):
    encoder, greedy = decoding._encode, decoding._greedy
    table = Questions([60] * 16 + [50] * 16 + [40] * 16 + [30] * 17)
    before, mine = (encoder._cache_size(), greedy._cache_size()), decoder()
    mine.ids(params, table, np.arange(65), LENGTH)
    assert encoder._cache_size() - before[0] == 4  # 64, 56, 40, 32
    assert greedy._cache_size() - before[1] == 1
    mine.ids(params, table, np.arange(65), LENGTH + 1)
    assert encoder._cache_size() - before[0] == 4, "whatever the decoder is asked for"


def test_the_pace_is_of_batches_that_met_no_new_shape(params):
    table, mine = Questions([30] * 40), decoder()
    mine.ids(params, table, np.arange(20), LENGTH)
    assert mine.pace is None
    mine.ids(params, table, np.arange(20), LENGTH)
    assert mine.pace is not None and mine.pace > 0
    mine.ids(params, table, np.arange(20), LENGTH + 2)  # another program
    assert mine.pace is None
    mine.ids(params, table, np.arange(40), LENGTH + 3)
    assert mine.pace is not None, "the second batch met the same width"
    mixed = Questions([70] * 16 + [60] * 48)  # the second batch is narrower to the decoder
    mine.ids(params, mixed, np.arange(64), LENGTH + 4)
    assert mine.pace is None
