"""Chooses the rows of a file that make up a split: plain numpy, the same on every machine."""

import math
import unicodedata
from collections.abc import Iterable

import numpy as np

from sbs_jax.errors import UserError

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


def train_test_rows(n: int, test_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits n rows at random into (train, test), as the original did.

    The rule of `Dataset.train_test_split` in Hugging Face datasets 2.7.1: ceil(test_size * n) test
    rows, the first ones of numpy's default generator's permutation.

    Returns:
        Two int64 arrays [n_train], [n_test] in shuffled order.

    Raises:
        UserError: test_size is not within 0..1, or a side would be empty.
    """
    if not 0.0 < test_size < 1.0:
        raise UserError(f"test_size={test_size}: must lie between 0 and 1")
    n_test = _test_count(n, test_size)
    if n - n_test < 1:
        raise UserError(
            f"{n} rows cannot be split at test_size={test_size}: no training row would be left; "
            "use more rows"
        )
    order = np.random.default_rng(seed).permutation(n)
    return order[n_test:], order[:n_test]


def subsample_rows(n: int, fraction: float, run: int) -> np.ndarray:
    """Draws a fraction of n rows as the original's ``--subsample FRACTION --run RUN``.

    All rows in order for fraction 1; else the train side of `train_test_rows` with
    test_size = 1.0 - fraction (that very float) and seed = run: int64 [n_kept], shuffled.
    Raises UserError where the fraction is not in (0, 1] or keeps no row.
    """
    _check(fraction)
    if fraction == 1.0:
        return np.arange(n)
    return train_test_rows(n, 1.0 - fraction, run)[0]


def first_rows(n: int, fraction: float, run: int) -> np.ndarray:
    """Takes the beginning of the file: as many rows as `subsample_rows`, whatever the run.

    For a file whose order is a design (the demo's rounds of one question per noun).
    """
    _check(fraction)
    kept = n if fraction == 1.0 else n - _test_count(n, 1.0 - fraction)
    if kept < 1:
        raise UserError(f"fraction={fraction} of {n} rows keeps none; use more")
    return np.arange(kept)


def question(text: str) -> int:
    """A hash of an input, equal for those that T5's vocabularies read alike.

    They fold white space and normalise characters (NFKC): a question is no other one because a line
    end or a full-width letter is in it. Only hashes are kept: a long file need not fit into memory.
    """
    return hash(" ".join(unicodedata.normalize("NFKC", text).split()))


def question_numbers(inputs: Iterable[str]) -> np.ndarray:
    """Numbers the different questions in the order of their first row: int64 [rows]."""
    numbers: dict[int, int] = {}
    return np.fromiter((numbers.setdefault(question(t), len(numbers)) for t in inputs), np.int64)


def rows_of(question_of: np.ndarray, questions: np.ndarray) -> np.ndarray:
    """The rows of some questions, in the order of the questions and then of the file.

    Args:
        question_of: int64 [rows], the number of each row's question.
        questions: int64 [kept], the questions to keep.

    Returns:
        int64 row numbers. Where every row has its own question these are `questions` themselves.
    """
    counts = np.bincount(question_of)
    if len(counts) == len(question_of):
        return questions
    order = np.argsort(question_of, kind="stable")
    starts = np.cumsum(counts) - counts
    return np.concatenate([order[starts[q] : starts[q] + counts[q]] for q in questions])


def _test_count(n: int, test_size: float) -> int:
    return math.ceil(test_size * n)


def _check(fraction: float) -> None:
    if not 0.0 < fraction <= 1.0:
        raise UserError(f"fraction={fraction}: must be above 0 and at most 1")
