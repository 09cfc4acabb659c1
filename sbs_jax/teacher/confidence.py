"""The probability a model gave to the label it wrote, from those of its tokens."""

import math
from collections.abc import Sequence
from typing import Any


def tokens_of(value: Any) -> list[tuple[str, float]]:
    """The ``logprobs`` of a journal's line; empty for anything else."""
    if not isinstance(value, list):
        return []
    pairs = [pair for pair in value if isinstance(pair, list) and len(pair) == 2]
    return [(t, float(p)) for t, p in pairs if isinstance(t, str) and isinstance(p, int | float)]


def of(tokens: Sequence[tuple[str, float]], sentence: str, wording: str) -> float | None:
    """The probability of `wording`, the label as it is written at the end of `sentence`.

    The product over the tokens that hold a part of it. None without tokens, or where the sentence
    is not in their text or the wording not in the sentence.
    """
    text, part = "".join(token for token, _ in tokens), wording.strip()
    start = text.find(sentence) if sentence else -1
    offset = sentence.rfind(part)
    if min(start, offset) < 0 or not part:
        return None
    begin = start + offset
    end, position, total = begin + len(part), 0, 0.0
    for token, value in tokens:
        if position < end and position + len(token) > begin:
            total += value
        position += len(token)
    return math.exp(total)
