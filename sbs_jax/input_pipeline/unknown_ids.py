"""The fraction of unknown ids in a run's texts: what its vocabulary cannot tell apart.

A task's prefix is left out: it is the same in every question, and `data_check` tests whether it
distinguishes the tasks.
"""

from collections.abc import Iterable, Sequence

import numpy as np

from sbs_jax.configs import TrainConfig
from sbs_jax.datasets.methods import View
from sbs_jax.datasets.splits import TRAIN
from sbs_jax.input_pipeline.pipeline import Source
from sbs_jax.input_pipeline.token_cache import TokenTable
from sbs_jax.input_pipeline.vocabularies import Vocabulary, encode_text

_SAMPLE = 10_000  # rows counted


def fractions(source: Source, config: TrainConfig, splits: Sequence[str]) -> dict[str, float]:
    """{"training questions": fraction, "training labels": .., "test questions": .., ..}.

    Args:
        source: tokens are prepared, or taken from the cache.
        config: of the run.
        splits: those that the run reads; up to 10,000 rows of each count.
    """
    by_kind = {}
    for split in splits:
        dataset = source.selection.dataset
        file_split, rows = dataset.rows(split, config.data_fraction, config.random_seed)
        sample = rows[:: max(1, len(rows) // _SAMPLE)].tolist()
        if split != TRAIN:
            view = source.selection.eval_view
            by_kind[f"{split} questions"] = _questions(source, view, file_split, sample)
            continue
        first, *_ = source.selection.views
        by_kind["training questions"] = _questions(source, first, file_split, sample)
        for view in source.selection.views:
            kind = "rationales" if view.name == "rationale" else "labels"
            targets = map(source.table(file_split, view).targets, sample)
            by_kind[f"training {kind}"] = fraction(source.vocabulary, targets)
    return by_kind


def _questions(source: Source, view: View, file_split: str, rows: Sequence[int]) -> float:
    table: TokenTable = source.table(file_split, view)
    prefix = prefix_ids(source.vocabulary, view.prefix_text(source.prefixes))
    inputs = (without_prefix(table.inputs(row), prefix) for row in rows)
    return fraction(source.vocabulary, inputs)


def prefix_ids(vocabulary: Vocabulary, prefix: str) -> np.ndarray:
    """The ids a prefix begins every question with."""
    return np.array(encode_text(vocabulary, prefix), np.int32)


def without_prefix(ids: np.ndarray, prefix: np.ndarray) -> np.ndarray:
    """A question's own ids: all, where it does not begin with the prefix's."""
    count = len(prefix)
    return ids[count:] if np.array_equal(ids[:count], prefix) else ids


def fraction(vocabulary: Vocabulary, sequences: Iterable[np.ndarray]) -> float:
    """The fraction of unknown ids, from 0 to 1; EOS ids do not count."""
    ids = np.concatenate([*sequences, np.zeros(0, np.int32)])
    text = ids[ids != vocabulary.eos_id]
    return float(np.mean(text == vocabulary.unk_id)) if len(text) else 0.0
