"""The few batch shapes of a run: which ones, so that batches carry little padding.

Every shape is a program to compile, so a run has at most `MAX_SHAPES` of them, and one more only
where it saves more updates than its compilation costs. The choice looks at token counts alone:

1. For several numbers of rows, the shortest rows that hold each sampled batch (bisection).
2. Candidate shapes are the grid of these lengths; a batch costs what its cheapest shape costs.
3. Shapes are added greedily and exchanged while that lowers the cost. One of them holds every
   batch seen, the heaviest of the run among them.
4. `tighten` shortens the rows of the others while packing really succeeds in them.

Costs are integers, whose sums are the same on every processor: all hosts choose alike.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from sbs_jax.input_pipeline import packing
from sbs_jax.input_pipeline.packing import (
    BatchShape,
    Group,
    Lengths,
    RowLengths,
    Shapes,
    round_up,
)

MAX_SHAPES = 5

# Row lengths are multiples of these.
_MULTIPLES = RowLengths(8, 4)
# Rows tried, as parts of the number of rows that would hold one long input each: every second one
# for small batches, where neighbours are the same whole number, every fourth for very large ones,
# which are slow to plan.
_ROW_PARTS = (1.15, 1.05, 0.95, 0.85, 0.75, 0.67, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2)
_SMALL, _LARGE = 96, 512  # sequences
_GRID = 16  # lengths tried per dimension and number of rows
_MOST_SLACK = 400  # per mille of the perfectly packed length
_NEVER = np.int64(2**62)


@dataclasses.dataclass(frozen=True)
class CostModel:
    """What a batch shape costs, in arbitrary units.

    An encoder token costs 1 for its matrix products and `1 / attention_length` for every position
    it attends to; a decoder token costs twice as much (cross-attention, vocabulary).

    Attributes:
        attention_length: keys whose attention costs as much as a token's matrix products.
        compile_updates: updates that cost as much as compiling one more shape.
    """

    attention_length: int
    compile_updates: int

    def of(self, shape: BatchShape) -> int:
        return int(self.of_all(Shapes.of([shape]))[0])

    def of_all(self, shapes: Shapes) -> Int[np.ndarray, " shapes"]:
        rows, inputs, targets = shapes
        free = self.attention_length
        encoder = inputs * (free + inputs)
        return rows * (encoder + targets * (2 * free + targets + inputs))


class Ladder:
    """Candidate shapes with what they cost and which batches they hold.

    Args:
        sample: batches typical of the run; the mean cost is theirs.
        heavy: further batches that one of the shapes must hold.
        longest: the longest input and target of any sequence of the run.
        row_lengths: fixes the row lengths; only the number of rows then varies.
    """

    def __init__(
        self,
        sample: Group,
        heavy: Group,
        longest: RowLengths,
        *,
        multiple_of: int,
        costs: CostModel,
        row_lengths: RowLengths | None = None,
    ) -> None:
        width = max(sample.inputs.shape[1], heavy.inputs.shape[1])
        self._group = Group(
            *(
                np.concatenate([_widen(a, width), _widen(b, width)])
                for a, b in zip(sample, heavy, strict=True)
            )
        )
        self._sampled = len(sample.inputs)
        self._costs = costs
        self._multiple_of = multiple_of
        families = self._by_count(row_lengths) if row_lengths else self._by_rows(longest)
        shapes, covers = zip(*families, strict=True)
        self._shapes = [shape for family in shapes for shape in family]
        self._covers = np.concatenate(covers)
        columns = Shapes.of(self._shapes)
        cost = costs.of_all(columns)
        holds = self._covers[:, : self._sampled]
        self._table = np.where(holds, cost[:, None], _NEVER // max(self._sampled, 1))
        room = (columns.inputs >= longest.inputs) & (columns.targets >= longest.targets)
        whole = np.flatnonzero(self._covers.all(axis=1) & room)
        self._whole = whole[np.argsort(cost[whole], kind="stable")]

    def choose(self, steps: int, most: int = MAX_SHAPES) -> tuple[BatchShape, ...]:
        """At most `most` shapes for a run of `steps` updates, the cheapest first."""
        chosen = [int(self._whole[0])]
        while len(chosen) < most:
            longer = self._exchange([*chosen, self._best_addition(chosen)])
            before, after = self._total(chosen), self._total(longer)
            if (before - after) * steps <= after * self._costs.compile_updates:
                break
            chosen = longer
        shapes = [self._shapes[index] for index in dict.fromkeys(chosen)]
        return tuple(sorted(shapes, key=self._costs.of))

    def _total(self, chosen: list[int]) -> int:
        return int(self._table[chosen].min(axis=0).sum())

    def _best_addition(self, chosen: list[int]) -> int:
        current = self._table[chosen].min(axis=0)
        return int(np.minimum(self._table, current).sum(axis=1).argmin())

    def _exchange(self, chosen: list[int]) -> list[int]:
        """Replaces one shape after another by the best complement of the rest, twice.

        The first one stays among those that hold everything.
        """
        for position in [*range(len(chosen))] * 2:
            others = [*chosen[:position], *chosen[position + 1 :]]
            rest = self._table[others].min(axis=0)
            if position:
                chosen[position] = int(np.minimum(self._table, rest).sum(axis=1).argmin())
            else:
                totals = np.minimum(self._table[self._whole], rest).sum(axis=1)
                chosen[0] = int(self._whole[totals.argmin()])
        return chosen

    def _by_rows(
        self, longest: RowLengths
    ) -> Iterator[tuple[list[BatchShape], Bool[np.ndarray, "shapes batches"]]]:
        """For each number of rows tried: a grid of row lengths, and the batches each holds."""
        for rows in self._row_counts():
            need = _shortest_rows(self._group, rows)
            inputs, targets = (
                _grid(lengths[: self._sampled], [int(lengths.max()), most], multiple)
                for lengths, most, multiple in zip(need, longest, _MULTIPLES, strict=True)
            )
            shapes = [BatchShape(rows, i, t) for i in inputs for t in targets]
            columns = Shapes.of(shapes)
            holds = need.inputs <= columns.inputs[:, None]
            yield shapes, holds & (need.targets <= columns.targets[:, None])

    def _row_counts(self) -> list[int]:
        mean = int(self._group.inputs[: self._sampled].sum()) // self._sampled
        long = int(np.median(self._group.inputs.max(axis=1)))
        size = self._group.inputs.shape[1]
        tried = _ROW_PARTS[:: 2 if size <= _SMALL else 1 if size <= _LARGE else 4]
        counts = (max(1, round(part * mean / long)) for part in tried)
        return sorted({round_up(count, self._multiple_of) for count in counts})

    def _by_count(
        self, row_lengths: RowLengths
    ) -> Iterator[tuple[list[BatchShape], Bool[np.ndarray, "shapes batches"]]]:
        lines = zip(self._group.inputs, self._group.targets, strict=True)
        batches = (Lengths(i[t > 0], t[t > 0]) for i, t in lines)
        rows = np.array([packing.place(lengths, row_lengths).rows for lengths in batches])
        rows = -(-rows // self._multiple_of) * self._multiple_of
        counts = np.unique(rows)
        yield [BatchShape(n, *row_lengths) for n in counts.tolist()], rows <= counts[:, None]


def tighten(
    shapes: tuple[BatchShape, ...], sample: Group, costs: CostModel
) -> tuple[BatchShape, ...]:
    """Shortens rows step by step where that lowers the cost of the sample; the last shape stays.

    The ladder judges by the slack that one packing of a batch needed; here batches are packed.
    """
    tightened = list(shapes)
    table = np.stack([_costs_of(sample, shape, costs) for shape in tightened])
    for index, name in itertools.product(range(len(tightened) - 1), ("targets", "inputs")):
        while True:
            shorter = getattr(tightened[index], name) - getattr(_MULTIPLES, name)
            if shorter <= 0:
                break
            shape = tightened[index]._replace(**{name: shorter})
            changed = table.copy()
            changed[index] = _costs_of(sample, shape, costs)
            if changed.min(axis=0).sum() >= table.min(axis=0).sum():
                break
            tightened[index], table = shape, changed
    return tuple(sorted(tightened, key=costs.of))


def _costs_of(sample: Group, shape: BatchShape, costs: CostModel) -> Int[np.ndarray, " batches"]:
    """The shape's cost for every batch that fits it; for the others a prohibitive one."""
    never = _NEVER // max(1, len(sample.inputs))
    return np.where(packing.place_all(sample, shape).fits, costs.of(shape), never)


def _widen(array: Int[np.ndarray, "n m"], width: int) -> Int[np.ndarray, "n width"]:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])))


def _grid(need: Int[np.ndarray, " batches"], most: list[int], multiple: int) -> list[int]:
    """Lengths worth trying: quantiles of what batches need, and those that hold everything."""
    ranks = np.linspace(0, len(need) - 1, min(_GRID, len(need))).round().astype(int)
    return sorted({round_up(int(n), multiple) for n in [*np.sort(need)[ranks], *most]})


def _shortest_rows(group: Group, rows: int) -> Lengths:
    """For each batch, row lengths at which it fits `rows` rows with the least slack found.

    Targets get twice the slack of inputs: encoder positions are three quarters of the cost. A
    batch for which no slack is enough gets lengths that hold all of it in one row.
    """
    tries, halvings = (3, 5) if group.inputs.shape[1] <= 256 else (1, 3)
    longest = group.inputs.max(axis=1), group.targets.max(axis=1)
    totals = group.inputs.sum(axis=1), group.targets.sum(axis=1)

    def shapes(slack: Int[np.ndarray, " batches"]) -> Shapes:
        inputs = -(-totals[0] * (1000 + slack) // (1000 * rows))
        targets = -(-totals[1] * (1010 + 2 * slack) // (1000 * rows))
        inputs, targets = np.maximum(inputs, longest[0]), np.maximum(targets, longest[1])
        return Shapes(np.full_like(inputs, rows), inputs, targets)

    low, high = np.zeros_like(totals[0]), np.full_like(totals[0], _MOST_SLACK)
    fits = packing.place_all(group, shapes(high)).fits
    for _ in range(halvings):
        middle = (low + high) // 2
        enough = packing.place_all(group, shapes(middle), tries).fits
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    _, inputs, targets = shapes(high)
    return Lengths(np.where(fits, inputs, totals[0]), np.where(fits, targets, totals[1]))
