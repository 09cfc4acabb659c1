"""Decodes rows of a token table: batches of similar length, the greedy output of each row."""

import numpy as np
from jaxtyping import Int

from sbs_jax.configs import T5Config
from sbs_jax.distributed import multihost
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.input_pipeline import batches
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.models.decoding import greedy

_WIDTH_MULTIPLE = 16  # encoder widths are rounded up to this: few shapes, few compilations


class Decoder:
    """Turns rows of a token table into ids or text, with one model on one mesh."""

    def __init__(
        self,
        config: T5Config,
        partitioner: Partitioner,
        vocabulary: Vocabulary | None,
        batch_size: int,
    ) -> None:
        self._config = config
        self._partitioner = partitioner
        self._vocabulary = vocabulary
        shards = partitioner.batch_shards
        self._batch_size = -(-batch_size // shards) * shards

    def decode(
        self, params: dict, table: batches.Table, rows: np.ndarray, max_decode_length: int
    ) -> list[str]:
        """The greedy output of every row as text, in the order of `rows`."""
        assert self._vocabulary is not None
        outputs = self.ids(params, table, rows, max_decode_length)
        return [self._vocabulary.decode(ids.tolist()) for ids in outputs]

    def ids(
        self, params: dict, table: batches.Table, rows: np.ndarray, max_decode_length: int
    ) -> Int[np.ndarray, "rows length"]:
        """The greedy output of every row, in the order of `rows`; 0 after the EOS."""
        outputs = np.full((len(rows), max_decode_length), -1, np.int32)
        for places, tokens in batches.eval_batches(
            table, rows, self._batch_size, width_multiple=_WIDTH_MULTIPLE
        ):
            found = greedy(
                params,
                self._partitioner.put_rows(tokens),
                config=self._config,
                partitioner=self._partitioner,
                max_decode_length=max_decode_length,
            )
            outputs[places[places >= 0]] = self._partitioner.fetch(found)[places >= 0]
            multihost.sign_of_progress()
        assert (outputs >= 0).all(), "every example is decoded exactly once"
        return outputs
