"""Draws one of a question's sequences per epoch, as a function of (seed, epoch, id) alone.

A draw depends neither on the question's place in the file nor on what else is selected, so that a
data fraction, another batch size or a resumed run draws alike. numpy's generators draw in
sequence; here every (epoch, id) needs a separate number, hence the mixer of SplitMix64 (Steele et
al. 2014, "Fast splittable pseudorandom number generators"), vectorised.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)


def keys(ids: Iterable[str]) -> UInt64[np.ndarray, " n"]:
    """64 bits of every id, the same in every process."""
    digests = (hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(b"".join(digests), np.uint64).copy()


def draw(
    ids: UInt64[np.ndarray, " n"],
    seed: int,
    epochs: Int[np.ndarray, " n"],
    counts: Int[np.ndarray, " n"],
) -> Int[np.ndarray, " n"]:
    """A number from 0 to below `counts` for each; 0 where the count is 0.

    Args:
        ids: from `keys`.
        seed: any integer.
    """
    bits = _mixed(ids ^ _mixed(np.full(1, seed % 2**64, np.uint64)))
    bits = _mixed(bits ^ _mixed(epochs.astype(np.uint64)))
    fraction = (bits >> np.uint64(11)).astype(np.float64) / 2.0**53
    return (fraction * counts).astype(np.int64)


def _mixed(bits: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    bits = bits + _GOLDEN
    for shift, factor in _MIXERS:
        bits = (bits ^ (bits >> shift)) * factor
    return bits ^ (bits >> np.uint64(31))
