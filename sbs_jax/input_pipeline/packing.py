"""Sequences into rows: best-fit packing in two dimensions, and the model batch it gives.

An example occupies one segment: the same row and the same segment number in the encoder and in
the decoder. Nothing here sums floating-point numbers, so every host places a batch alike whatever
its processor.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

Batch = dict[str, np.ndarray]
# (inputs, targets, task id): token ids with EOS, and the task the example belongs to.
Example = tuple[np.ndarray, np.ndarray, int]

# How much an unused encoder position counts against an unused decoder position, in the order tried.
# Measured on CQA's lengths: 8:1 comes closest to the bound by totals, the others rescue batches.
_WEIGHTS = ((8.0, 1.0), (1.0, 8.0), (3.0, 1.0), (1.0, 1.0), (64.0, 1.0))
_INPUT_MULTIPLE = 32
_TARGET_MULTIPLE = 8
# Shorter rows hold too few examples to be filled well, unless the batch has no more tokens.
_INPUT_MINIMUM = 128


class RowLengths(NamedTuple):
    """Positions of one row: `inputs` in the encoder, `targets` in the decoder."""

    inputs: int
    targets: int


class Placement(NamedTuple):
    """Where each example of a batch goes: its row, its segment number (from 1), and rows in use."""

    row: Int[np.ndarray, " examples"]
    segment: Int[np.ndarray, " examples"]
    rows: int


class Lengths(NamedTuple):
    """Token counts (EOS included) of the examples of one batch."""

    inputs: Int[np.ndarray, " examples"]
    targets: Int[np.ndarray, " examples"]


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `number`."""
    return -(-number // multiple) * multiple


def one_per_row(examples: int) -> Placement:
    """The unpacked layout: example i is the only segment of row i."""
    return Placement(np.arange(examples), np.ones(examples, np.int64), examples)


def place(lengths: Lengths, row_lengths: RowLengths, rows: int = 0) -> Placement:
    """Packs a batch by best-fit decreasing in encoder and decoder positions at once.

    Several weightings of the two dimensions are tried; the first that needs at most `rows` rows
    is taken, else the one that needs fewest. Every example must fit a row of its own.
    """
    best = None
    for weights in _WEIGHTS:
        placement = _best_fit(lengths, row_lengths, weights)
        if best is None or placement.rows < best.rows:
            best = placement
        if best.rows <= max(rows, row_bound(lengths, row_lengths)):
            break
    return best


def _best_fit(lengths: Lengths, row_lengths: RowLengths, weights: tuple[float, float]) -> Placement:
    """Fills row after row: the largest example left opens it, then always the one that fits best.

    Best: the least weighted squared rest of the two dimensions, a norm-based greedy as in
    Panigrahy et al., "Heuristics for vector bin packing" (2011).
    """
    by_input, by_target = weights[0] / row_lengths.inputs**2, weights[1] / row_lengths.targets**2
    size = weights[0] * lengths.inputs / row_lengths.inputs
    size = size + weights[1] * lengths.targets / row_lengths.targets
    left = np.argsort(-size, kind="stable")
    inputs, targets = lengths.inputs[left], lengths.targets[left]
    row = np.empty(len(left), np.int64)
    segment = np.empty(len(left), np.int64)
    rows = 0
    while len(left):
        unused = np.ones(len(left), bool)
        chosen, number = 0, 0
        input_rest, target_rest = row_lengths
        while chosen is not None:
            number += 1
            row[left[chosen]], segment[left[chosen]] = rows, number
            unused[chosen] = False
            input_rest -= int(inputs[chosen])
            target_rest -= int(targets[chosen])
            rest = Lengths(input_rest - inputs, target_rest - targets)
            chosen = _closest(rest, unused, by_input, by_target)
        left, inputs, targets = left[unused], inputs[unused], targets[unused]
        rows += 1
    return Placement(row, segment, rows)


def _closest(
    rest: Lengths, unused: Bool[np.ndarray, " examples"], by_input: float, by_target: float
) -> int | None:
    """Index of the unused example that would leave the smallest rest, or None if none fits."""
    (fits,) = (unused & (rest.inputs >= 0) & (rest.targets >= 0)).nonzero()
    if not fits.size:
        return None
    inputs, targets = rest.inputs[fits], rest.targets[fits]
    return int(fits[(by_input * (inputs * inputs) + by_target * (targets * targets)).argmin()])


def row_bound(lengths: Lengths, row_lengths: RowLengths) -> int:
    """No packing needs fewer rows than this: the totals divided by the row lengths."""
    return max(
        -(-int(lengths.inputs.sum()) // row_lengths.inputs),
        -(-int(lengths.targets.sum()) // row_lengths.targets),
    )


def rows_needed(
    batches: Sequence[Lengths],
    row_lengths: RowLengths,
    multiple_of: int,
    at_most: int | float = math.inf,
) -> int:
    """Rows, a multiple of `multiple_of`, that hold every one of these batches.

    Stops early, with some number above `at_most`, once more than `at_most` rows are needed.
    """
    rows = multiple_of
    for lengths in batches:
        rows = max(rows, round_up(place(lengths, row_lengths, rows).rows, multiple_of))
        if rows > at_most:
            break
    return rows


def choose_row_lengths(
    batches: Sequence[Lengths], longest: RowLengths, multiple_of: int, emb_dim: int = 512
) -> RowLengths:
    """Row lengths that hold these batches (the run's heaviest) at the least cost.

    `longest` is the longest input and target of the whole run; every row holds them. Candidates
    are tried in the order of their cost if packing were perfect, until none left can win. The
    narrower the model (`emb_dim`), the more its attention costs, and the shorter the rows.
    """
    best, best_cost = None, math.inf
    for bound, candidate in sorted(_candidates(batches, longest, multiple_of, emb_dim)):
        if bound >= best_cost:
            break
        row_cost = _row_cost(candidate, emb_dim)
        affordable = math.ceil(best_cost / row_cost) - 1 if best else math.inf
        rows = rows_needed(batches, candidate, multiple_of, affordable)
        cost = rows * row_cost
        if cost < best_cost:
            best, best_cost = candidate, cost
    return best


def _candidates(
    batches: Sequence[Lengths], longest: RowLengths, multiple_of: int, emb_dim: int
) -> Iterator[tuple[float, RowLengths]]:
    """(lower bound of the cost, row lengths) worth trying for these batches."""
    inputs = max(int(lengths.inputs.sum()) for lengths in batches)
    targets = max(int(lengths.targets.sum()) for lengths in batches)
    enough = min(_INPUT_MINIMUM, inputs // multiple_of)
    shortest = round_up(max(longest.inputs, enough), _INPUT_MULTIPLE)
    # Where the longest target needs no more than the batch's own ratio of targets to inputs.
    matched = max(shortest, round_up(longest.targets * inputs // targets, _INPUT_MULTIPLE))
    longest_target = round_up(longest.targets, _TARGET_MULTIPLE)
    for start in {shortest, matched}:
        for length in range(start, start + 9 * _INPUT_MULTIPLE, _INPUT_MULTIPLE):
            for percent in (100, 105, 110, 115, 120, 130):
                in_ratio = length * targets * percent // (inputs * 100)
                target_length = max(longest_target, round_up(in_ratio, _TARGET_MULTIPLE))
                candidate = RowLengths(length, target_length)
                rows = max(row_bound(lengths, candidate) for lengths in batches)
                yield round_up(rows, multiple_of) * _row_cost(candidate, emb_dim), candidate


def _row_cost(row_lengths: RowLengths, emb_dim: int) -> float:
    """Cost of one row in units of an encoder token's matrix products.

    Attention costs 4*L*d beside 24*d*d FLOPs per token and layer; a decoder token costs about
    twice an encoder token: cross-attention and its share of the vocabulary head.
    """
    return row_lengths.inputs * (1 + row_lengths.inputs / (6 * emb_dim)) + 2 * row_lengths.targets


def pack(examples: Sequence[Example], row_lengths: RowLengths, rows: int) -> Batch:
    """Packs examples into `rows` rows (more if they do not fit) and returns the model batch.

    Worked example, two examples in one row of 6 encoder and 6 decoder positions:

        inputs [7 8 1] -> targets [5 1] (task 1), inputs [9 1] -> targets [4 6 1] (task 2)
        encoder_input_tokens    7 8 1 9 1 0
        encoder_segment_ids     1 1 1 2 2 0
        encoder_positions       0 1 2 0 1 0
        decoder_target_tokens   5 1 4 6 1 0
        decoder_input_tokens    0 5 0 4 6 0
        decoder_loss_weights    1 1 1 1 1 0
        decoder_segment_ids     1 1 2 2 2 0
        decoder_positions       0 1 0 1 2 0
        decoder_task_ids        1 1 2 2 2 0
    """
    inputs, targets, task_ids = zip(*examples, strict=True)
    sizes = Lengths(np.array([len(x) for x in inputs]), np.array([len(x) for x in targets]))
    placement = place(sizes, RowLengths(*row_lengths), rows)
    return fill(
        inputs, targets, np.array(task_ids), placement, row_lengths, max(rows, placement.rows)
    )


def fill(
    inputs: Sequence[np.ndarray],
    targets: Sequence[np.ndarray],
    task_ids: Int[np.ndarray, " examples"],
    placement: Placement,
    row_lengths: RowLengths,
    rows: int,
) -> Batch:
    """Lays examples out as placed; returns T5X's packed features, int32 [rows, row length].

    Keys: encoder_input_tokens, encoder_segment_ids, encoder_positions, decoder_input_tokens
    (targets shifted right inside each segment, start id 0), decoder_target_tokens,
    decoder_loss_weights (1 on every target token, EOS included), decoder_segment_ids,
    decoder_positions, and decoder_task_ids (the example's task on each of its target tokens).
    Padding is 0 everywhere. T5X's names: seqio.EncDecFeatureConverter with packing.
    """
    order = np.lexsort((placement.segment, placement.row))
    row, segment, task = placement.row[order], placement.segment[order], task_ids[order]
    encoder = _lay([inputs[i] for i in order], row, rows, row_lengths[0])
    decoder = _lay([targets[i] for i in order], row, rows, row_lengths[1])
    shifted = np.roll(decoder.tokens, 1)
    shifted[decoder.positions == 0] = 0
    return {
        "encoder_input_tokens": encoder.scatter(encoder.tokens),
        "encoder_segment_ids": encoder.scatter(np.repeat(segment, encoder.sizes)),
        "encoder_positions": encoder.scatter(encoder.positions),
        "decoder_input_tokens": decoder.scatter(shifted),
        "decoder_target_tokens": decoder.scatter(decoder.tokens),
        "decoder_loss_weights": decoder.scatter(np.ones_like(decoder.tokens)),
        "decoder_segment_ids": decoder.scatter(np.repeat(segment, decoder.sizes)),
        "decoder_positions": decoder.scatter(decoder.positions),
        "decoder_task_ids": decoder.scatter(np.repeat(task, decoder.sizes)),
    }


class _Layout(NamedTuple):
    """The tokens of one stream in row order, and the flat place of each in [rows, width]."""

    tokens: Int[np.ndarray, " tokens"]
    positions: Int[np.ndarray, " tokens"]
    sizes: Int[np.ndarray, " examples"]
    flat: Int[np.ndarray, " tokens"]
    shape: tuple[int, int]

    def scatter(self, values: Int[np.ndarray, " tokens"]) -> Int[np.ndarray, "rows width"]:
        out = np.zeros(self.shape, np.int32)
        out.reshape(-1)[self.flat] = values
        return out


def _lay(
    sequences: Sequence[np.ndarray], row: Int[np.ndarray, " examples"], rows: int, width: int
) -> _Layout:
    """Puts sequences, sorted by row, one after another from the start of their row."""
    sizes = np.fromiter(map(len, sequences), np.int64, len(sequences))
    starts = np.cumsum(sizes) - sizes
    tokens = np.concatenate(sequences) if sequences else np.zeros(0, np.int32)
    row_start = starts[np.searchsorted(row, row)]
    positions = np.arange(len(tokens)) - np.repeat(starts, sizes)
    flat = np.repeat(row * width + starts - row_start, sizes) + positions
    return _Layout(tokens, positions, sizes, flat, (rows, width))
