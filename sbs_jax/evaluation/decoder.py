"""Decodes rows of a token table: batches of similar length, the greedy output of each row."""

import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, Int

from sbs_jax.configs import T5Config
from sbs_jax.distributed import multihost
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.input_pipeline import batches
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.models.decoding import (
    EOS_ID,
    PAD_ID,
    greedy,
    greedy_scored,
    memory_width,
    score_labels,
)
from sbs_jax.models.label_trie import LabelTrie

# Rows that a CPU encodes at a time, and what their width is rounded up to. A layer's results of few
# rows stay in its caches, and few rows are as wide as the longest. The decoder, which reads all its
# parameters for each token, is faster with more rows (docs/performance.md).
_ON_CPU = (16, 8)
_WIDTH_MULTIPLE = 16  # elsewhere, where whole batches are encoded


def unended(outputs: Int[np.ndarray, "rows length"]) -> int:
    """How many outputs reached the maximum length before their EOS."""
    return int(np.sum(np.all(outputs != EOS_ID, axis=1)))


class Decoder:
    """Turns rows of a token table into ids or text, with one model on one mesh.

    Attributes:
        pace: seconds per question of the last call, without the batches of a new shape, which may
            have been compiled for; None where there was no other.
    """

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
        in_parts = partitioner.platform == "cpu" and shards == 1
        self._parts = _ON_CPU if in_parts else (self._batch_size, _WIDTH_MULTIPLE)
        self._met: dict[tuple, set[tuple]] = {}  # a program's settings -> shapes it has met
        self.pace: float | None = None

    def decode(
        self,
        params: dict,
        table: batches.Table,
        rows: np.ndarray,
        max_decode_length: int,
        start_id: int = PAD_ID,
    ) -> list[str]:
        """The greedy output of every row as text, in the order of `rows`."""
        if not len(rows):
            return []
        assert self._vocabulary is not None
        outputs = self.ids(params, table, rows, max_decode_length, start_id)
        return [self._vocabulary.decode(ids.tolist()) for ids in outputs]

    def ids(
        self,
        params: dict,
        table: batches.Table,
        rows: np.ndarray,
        max_decode_length: int,
        start_id: int = PAD_ID,
    ) -> Int[np.ndarray, "rows length"]:
        """The greedy output of every row, in the order of `rows`; 0 after the EOS."""
        (outputs,) = self._run(
            lambda tokens: (
                greedy(
                    params,
                    tokens,
                    config=self._config,
                    partitioner=self._partitioner,
                    max_decode_length=max_decode_length,
                    start_id=start_id,
                ),
            ),
            (max_decode_length, start_id),
            table,
            rows,
        )
        return outputs

    def scored_ids(
        self, params: dict, table: batches.Table, rows: np.ndarray, max_decode_length: int
    ) -> tuple[Int[np.ndarray, "rows length"], Float[np.ndarray, " rows"]]:
        """As `ids`, with the natural logarithm of each output's probability."""
        outputs, scores = self._run(
            lambda tokens: greedy_scored(
                params,
                tokens,
                config=self._config,
                partitioner=self._partitioner,
                max_decode_length=max_decode_length,
            ),
            ("scored", max_decode_length),
            table,
            rows,
        )
        return outputs, scores

    def label_scores(
        self, params: dict, table: batches.Table, rows: np.ndarray, trie: LabelTrie
    ) -> tuple[Float[np.ndarray, "rows labels"], Int[np.ndarray, " rows"]]:
        """Log-probability of every label of a trie, and which label is the greedy output.

        -1 where none is.
        """
        scores, chosen = self._run(
            lambda tokens: score_labels(
                params, tokens, trie, config=self._config, partitioner=self._partitioner
            ),
            ("labels", *(array.shape for array in trie)),
            table,
            rows,
        )
        return scores, chosen

    def _run(
        self,
        program: Callable[[list[Array]], tuple[Array, ...]],
        settings: tuple,
        table: batches.Table,
        rows: np.ndarray,
    ) -> tuple[np.ndarray, ...]:
        """What a program makes of every row, in the order of `rows`: each row once."""
        outputs: list[np.ndarray] = []
        done = np.zeros(len(rows), bool)
        met = self._met.setdefault(settings, set())
        paces = []  # seconds per question, a batch each
        for places, parts in batches.eval_batches(table, rows, self._batch_size, *self._parts):
            real = places >= 0
            began = time.perf_counter()
            tokens = [self._partitioner.put_rows(part) for part in parts]
            results = program(tokens)
            arrays = [self._partitioner.fetch(array) for array in results]
            if not outputs:
                outputs = [np.zeros((len(rows), *a.shape[1:]), a.dtype) for a in arrays]
            for output, array in zip(outputs, arrays, strict=True):
                output[places[real]] = array[real]
            done[places[real]] = True
            shapes = {(part.shape, memory_width(tokens)) for part in tokens}
            if shapes <= met:
                paces.append((time.perf_counter() - began) / max(int(real.sum()), 1))
            met |= shapes
            multihost.sign_of_progress()
        self.pace = float(np.median(paces)) if paces else None
        assert done.all(), "every example is decoded exactly once"
        return tuple(outputs)
