"""Sequences into rows: packing in two dimensions, and the model batch it gives.

An example occupies one segment: the same row and the same segment number in the encoder and in
the decoder. Floating-point numbers are compared here but never summed along an axis, so every host
places a batch alike, whatever its processor.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from sbs_jax.datasets import methods

Batch = dict[str, np.ndarray]
_STARTS = np.array([0, *methods.START_IDS.values()])  # by task id
# (inputs, targets, task id): token ids with EOS, and the task the example belongs to.
Example = tuple[np.ndarray, np.ndarray, int]


class RowLengths(NamedTuple):
    """Positions of one row: `inputs` in the encoder, `targets` in the decoder."""

    inputs: int
    targets: int


class BatchShape(NamedTuple):
    """Rows of a batch, and the encoder and decoder positions of each."""

    rows: int
    inputs: int
    targets: int

    @property
    def row_lengths(self) -> RowLengths:
        return RowLengths(self.inputs, self.targets)


class Shapes(NamedTuple):
    """Several `BatchShape`s, one number of each in every array."""

    rows: Int[np.ndarray, " shapes"]
    inputs: Int[np.ndarray, " shapes"]
    targets: Int[np.ndarray, " shapes"]

    @classmethod
    def of(cls, shapes: Sequence[BatchShape]) -> "Shapes":
        return cls(*np.array(shapes, np.int64).reshape(-1, 3).T)

    def take(self, lines: Int[np.ndarray, " lines"]) -> "Shapes":
        return Shapes(*(numbers[lines] for numbers in self))


class Placement(NamedTuple):
    """Where each example of a batch goes: its row, its segment number (from 1), and rows in use."""

    row: Int[np.ndarray, " examples"]
    segment: Int[np.ndarray, " examples"]
    rows: int


class Lengths(NamedTuple):
    """Token counts (EOS included) of the examples of one batch."""

    inputs: Int[np.ndarray, " examples"]
    targets: Int[np.ndarray, " examples"]


class Group(NamedTuple):
    """Token counts of several batches, one per line; target length 0 where a line is shorter."""

    inputs: Int[np.ndarray, "batches examples"]
    targets: Int[np.ndarray, "batches examples"]

    @classmethod
    def of(cls, batches: Sequence[Lengths]) -> "Group":
        """Batches of any sizes, filled up with absent examples."""
        width = max((len(lengths.targets) for lengths in batches), default=0)
        inputs, targets = np.zeros((2, len(batches), width), np.int64)
        for line, lengths in enumerate(batches):
            inputs[line, : len(lengths.inputs)] = lengths.inputs
            targets[line, : len(lengths.targets)] = lengths.targets
        return cls(inputs, targets)

    def take(self, lines: Int[np.ndarray, " lines"]) -> "Group":
        return Group(self.inputs[lines], self.targets[lines])

    def may_fit(self, shape: Shapes) -> Bool[np.ndarray, " batches"]:
        """False where totals or the longest example alone rule a batch's shape out."""
        rows, inputs, targets = shape
        totals = self.inputs.sum(axis=1) <= rows * inputs
        totals &= self.targets.sum(axis=1) <= rows * targets
        longest = self.inputs.max(axis=1, initial=0) <= inputs
        return totals & longest & (self.targets.max(axis=1, initial=0) <= targets)


class Placements(NamedTuple):
    """`Placement` of several batches at once; meaningless where a batch does not fit."""

    row: Int[np.ndarray, "batches examples"]
    segment: Int[np.ndarray, "batches examples"]
    fits: Bool[np.ndarray, " batches"]


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `number`."""
    return -(-number // multiple) * multiple


def one_per_row(examples: int) -> Placement:
    """The unpacked layout: example i is the only segment of row i."""
    return Placement(np.arange(examples), np.ones(examples, np.int64), examples)


def place(lengths: Lengths, row_lengths: RowLengths, rows: int = 0) -> Placement:
    """Packs one batch: into `rows` rows where that is possible, else into as few as it can.

    Every example must fit into a row.
    """
    group = Group.of([lengths])
    rows = max(rows, row_bound(lengths, row_lengths))
    while True:
        placements = place_all(group, BatchShape(rows, *row_lengths))
        if placements.fits[0]:
            return Placement(
                placements.row[0], placements.segment[0], int(placements.row[0].max()) + 1
            )
        rows += 1


def place_all(
    group: Group, shape: BatchShape | Shapes, heuristics: int | None = None
) -> Placements:
    """Packs several batches, each by the first heuristic that succeeds.

    Args:
        shape: of all batches, or one for each.
        heuristics: how many of them are tried; None tries all.
    """
    lines, _ = group.inputs.shape
    shapes = shape if isinstance(shape, Shapes) else Shapes.of([shape] * lines)
    row, segment = np.zeros((2, *group.inputs.shape), np.int64)
    fits = np.zeros(lines, bool)
    left = np.flatnonzero(group.may_fit(shapes))
    for heuristic, weights in _HEURISTICS[:heuristics]:
        if not left.size:
            break
        placements = heuristic(group.take(left), shapes.take(left), weights)
        done = left[placements.fits]
        row[done], segment[done] = (
            placements.row[placements.fits],
            placements.segment[placements.fits],
        )
        fits[done] = True
        left = left[~placements.fits]
    return Placements(row, segment, fits)


class _Scaled(NamedTuple):
    """Examples sorted by weighted size, the largest first; absent ones last.

    Attributes:
        by_input, by_target: weight of a squared encoder and decoder position, per batch.
        present: number of examples of every batch.
    """

    order: Int[np.ndarray, "batches examples"]
    inputs: Int[np.ndarray, "batches examples"]
    targets: Int[np.ndarray, "batches examples"]
    by_input: Float[np.ndarray, " batches"]
    by_target: Float[np.ndarray, " batches"]
    present: Int[np.ndarray, " batches"]

    @classmethod
    def of(cls, group: Group, shape: Shapes, weights: tuple[float, float]) -> "_Scaled":
        size = weights[0] * group.inputs / shape.inputs[:, None]
        size = size + weights[1] * group.targets / shape.targets[:, None]
        present = group.targets > 0
        order = np.argsort(np.where(present, -size, np.inf), axis=1, kind="stable")
        return cls(
            order,
            np.take_along_axis(group.inputs, order, axis=1),
            np.take_along_axis(group.targets, order, axis=1),
            weights[0] / shape.inputs**2,
            weights[1] / shape.targets**2,
            present.sum(axis=1),
        )

    def unsorted(
        self, values: Int[np.ndarray, "batches examples"]
    ) -> Int[np.ndarray, "batches examples"]:
        out = np.empty_like(values)
        np.put_along_axis(out, self.order, values, axis=1)
        return out


def _balanced(group: Group, shape: Shapes, weights: tuple[float, float]) -> Placements:
    """The largest example first, each into the row whose rest points most in its direction.

    Fills all rows evenly, which is best where a row holds many examples: the dot-product greedy of
    Panigrahy et al., "Heuristics for vector bin packing" (2011), with the number of rows fixed.
    """
    scaled = _Scaled.of(group, shape, (1.0, 1.0))
    scale = (weights[0] / shape.inputs**2, weights[1] / shape.targets**2)
    lines, width = group.inputs.shape
    each = np.arange(lines)
    exists = np.arange(int(shape.rows.max(initial=0))) < shape.rows[:, None]
    input_rest = np.where(exists, shape.inputs[:, None], -1)
    target_rest = np.where(exists, shape.targets[:, None], -1)
    members = np.zeros_like(input_rest)
    row, segment = np.zeros((2, lines, width), np.int64)
    fits = np.ones(lines, bool)
    for place in range(int(scaled.present.max(initial=0))):
        inputs, targets = scaled.inputs[:, place], scaled.targets[:, place]
        room = (input_rest >= inputs[:, None]) & (target_rest >= targets[:, None])
        score = input_rest * (scale[0] * inputs)[:, None]
        score = score + target_rest * (scale[1] * targets)[:, None]
        chosen = np.where(room, score, -1.0).argmax(axis=1)
        present = place < scaled.present
        fits &= room[each, chosen] | ~present
        members[each, chosen] += present
        row[:, place], segment[:, place] = chosen, members[each, chosen]
        input_rest[each, chosen] -= inputs
        target_rest[each, chosen] -= targets
    return Placements(scaled.unsorted(row), scaled.unsorted(segment), fits)


def _best_fit(group: Group, shape: Shapes, weights: tuple[float, float]) -> Placements:
    """Fills row after row: the largest example left opens it, then always the one that fits best.

    Best: the least weighted squared rest of the two dimensions, the norm-based greedy of the same
    paper. Better than `_balanced` where a row holds few examples.
    """
    scaled = _Scaled.of(group, shape, weights)
    lines, width = group.inputs.shape
    each = np.arange(lines)
    unused = np.arange(width) < scaled.present[:, None]
    input_rest, target_rest, number = np.zeros((3, lines), np.int64)
    current = np.full(lines, -1)
    row, segment = np.zeros((2, lines, width), np.int64)
    for place in range(int(scaled.present.max(initial=0))):
        inputs = input_rest[:, None] - scaled.inputs
        targets = target_rest[:, None] - scaled.targets
        room = unused & (inputs >= 0) & (targets >= 0)
        rest = scaled.by_input[:, None] * (inputs * inputs)
        rest = rest + scaled.by_target[:, None] * (targets * targets)
        chosen = np.where(room, rest, np.inf).argmin(axis=1)
        opens = ~room[each, chosen]
        chosen = np.where(opens, unused.argmax(axis=1), chosen)
        present = place < scaled.present
        current += opens & present
        number = np.where(opens, 0, number) + 1
        input_rest = np.where(opens, shape.inputs, input_rest) - scaled.inputs[each, chosen]
        target_rest = np.where(opens, shape.targets, target_rest) - scaled.targets[each, chosen]
        row[each[present], chosen[present]] = current[present]
        segment[each[present], chosen[present]] = number[present]
        unused[each, chosen] = False
    return Placements(scaled.unsorted(row), scaled.unsorted(segment), current < shape.rows)


# How much an encoder position counts against a decoder position, in the order tried. Measured on
# the lengths of CQA, SVAMP, e-SNLI and ANLI: the first two place nearly all, the others rescue
# batches; the last six make ANLI's batches of 8 questions 2.5% cheaper.
_HEURISTICS = (
    (_balanced, (1.0, 1.0)),
    (_best_fit, (8.0, 1.0)),
    (_balanced, (1.0, 4.0)),
    (_best_fit, (1.0, 8.0)),
    (_balanced, (4.0, 1.0)),
    (_best_fit, (3.0, 1.0)),
    (_best_fit, (1.0, 1.0)),
    (_best_fit, (64.0, 1.0)),
    (_balanced, (1.0, 2.0)),
    (_balanced, (2.0, 1.0)),
    (_best_fit, (16.0, 1.0)),
    (_best_fit, (5.0, 1.0)),
    (_balanced, (1.0, 8.0)),
    (_best_fit, (30.0, 1.0)),
)


def row_bound(lengths: Lengths, row_lengths: RowLengths) -> int:
    """No packing needs fewer rows than this: the totals divided by the row lengths."""
    return max(
        -(-int(lengths.inputs.sum()) // row_lengths.inputs),
        -(-int(lengths.targets.sum()) // row_lengths.targets),
    )


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
    source: Int[np.ndarray, " examples"] | None = None,
) -> Batch:
    """Lays examples out as placed; returns T5X's packed features, int32 [rows, row length].

    Args:
        inputs: one for each target, or one for several.
        placement: of the inputs; their targets are in the same row.
        source: for a shared encoder, the input that each target belongs to. Every target is then a
            separate decoder segment, which begins with its task's id of `methods.START_IDS`, and
            decoder_source_ids holds the encoder segment that it reads.

    Keys: encoder_input_tokens, encoder_segment_ids, encoder_positions, decoder_input_tokens
    (targets shifted right inside each segment, start id 0), decoder_target_tokens,
    decoder_loss_weights (1 on every target token, EOS included), decoder_segment_ids,
    decoder_positions, and decoder_task_ids (the example's task on each of its target tokens).
    Padding is 0 everywhere. T5X's names: seqio.EncDecFeatureConverter with packing.
    """
    order = np.lexsort((placement.segment, placement.row))
    segment = placement.segment[order]
    encoder = _lay([inputs[i] for i in order], placement.row[order], rows, row_lengths[0])
    reads = np.arange(len(targets)) if source is None else source
    order = np.lexsort((placement.segment[reads], placement.row[reads]))
    row, task, reads = placement.row[reads[order]], task_ids[order], placement.segment[reads[order]]
    decoder = _lay([targets[i] for i in order], row, rows, row_lengths[1])
    number = np.arange(len(row)) - np.searchsorted(row, row) + 1
    shifted = np.roll(decoder.tokens, 1)
    shifted[decoder.positions == 0] = 0 if source is None else _STARTS[task]
    batch = {
        "encoder_input_tokens": encoder.scatter(encoder.tokens),
        "encoder_segment_ids": encoder.scatter(np.repeat(segment, encoder.sizes)),
        "encoder_positions": encoder.scatter(encoder.positions),
        "decoder_input_tokens": decoder.scatter(shifted),
        "decoder_target_tokens": decoder.scatter(decoder.tokens),
        "decoder_loss_weights": decoder.scatter(np.ones_like(decoder.tokens)),
        "decoder_segment_ids": decoder.scatter(np.repeat(number, decoder.sizes)),
        "decoder_positions": decoder.scatter(decoder.positions),
        "decoder_task_ids": decoder.scatter(np.repeat(task, decoder.sizes)),
    }
    if source is not None:
        batch["decoder_source_ids"] = decoder.scatter(np.repeat(reads, decoder.sizes))
    return batch


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
