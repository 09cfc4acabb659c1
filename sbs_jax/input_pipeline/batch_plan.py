"""The layout of a run, fixed before its first update: the order of its questions, its batch shapes.

A run reads an infinite stream: epoch 0's shuffle of the selected questions, then epoch 1's, and so
on. Batch t is the stream's positions [t * batch_size, (t + 1) * batch_size), across the border of
two epochs where it falls so: nothing is skipped and no batch is partial. A batch therefore depends
on (seed, step) only; resuming needs only the step, and packing, hosts and devices change where a
question lies, never which questions make up a step.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import packing
from sbs_jax.input_pipeline.packing import BatchShape, Group, Lengths, RowLengths, round_up
from sbs_jax.input_pipeline.questions import Members, TrainingQuestions
from sbs_jax.input_pipeline.shape_ladder import CostModel, Ladder, tighten

_WIDTH_MULTIPLE = 8
# Attention to keys as many as this many model widths costs as much as a token's matrix products.
# Measured with a step of 960 encoder tokens in rows of 48 to 480 (docs/input.md).
ATTENTION_WIDTHS = 8
# Epochs searched for the heaviest batches; a rare heavier one later grows (`batches.Batches`).
_PLAN_EPOCHS = 4096
_HEAVY = 24  # heaviest batches that a shape must hold
_SAMPLE_EXAMPLES = 3072  # sequences in the batches whose mean cost decides


@functools.lru_cache(maxsize=8)
def epoch_order(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The order of n questions in one epoch: a function of (n, seed, epoch) alone."""
    key = np.array([seed % 2**64, epoch], np.uint64)
    order = np.random.Generator(np.random.Philox(key=key)).permutation(n)
    order.setflags(write=False)
    return order


def stream(n: int, seed: int, start: int, stop: int) -> Int[np.ndarray, " questions"]:
    """Positions [start, stop) of the infinite stream over n questions."""
    parts = []
    for epoch in range(start // n, -(-stop // n)):
        first, last = max(start - epoch * n, 0), min(stop - epoch * n, n)
        parts.append(epoch_order(n, seed, epoch)[first:last])
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def members(n: int, seed: int, start: int, stop: int) -> Members:
    """Positions [start, stop) of the stream and their epochs."""
    return Members(stream(n, seed, start, stop), np.arange(start, stop) // n)


@dataclasses.dataclass(frozen=True)
class PlanSpec:
    """What a run's layout depends on besides its token counts.

    Attributes:
        batch_size: questions per update. A question brings one sequence for every view in which it
            has a target; a record without any is left out.
        steps: updates of the whole run.
        seed: of the order; any integer.
        pack: several sequences per row; else one per row, batch_size * views rows.
        multiple_of: rows are a multiple of this (batch shards x micro-batches).
        row_lengths: encoder and decoder positions of every row; None chooses them.
        draw: of several sequences of one task a question brings one, drawn from (seed, epoch,
            id); else all.
        shared_encoder: the sequences of a question share one encoder input and are placed together;
            without `pack` a row holds one question.
        emb_dim: width of the model. The narrower, the more attention costs compared with the matrix
            products, and the shorter the rows.
        compile_updates: updates that cost as much as compiling the train step for one more shape.
    """

    batch_size: int
    steps: int
    seed: int
    pack: bool = True
    multiple_of: int = 1
    row_lengths: tuple[int, int] | None = None
    draw: bool = True
    shared_encoder: bool = False
    emb_dim: int = 512
    compile_updates: int = 50

    def __post_init__(self) -> None:
        for name, number in (("BATCH_SIZE", self.batch_size), ("TRAIN_STEPS", self.steps)):
            if number < 1:
                raise UserError(f"{name} = {number}: must be at least 1")

    @property
    def costs(self) -> CostModel:
        return CostModel(ATTENTION_WIDTHS * self.emb_dim, self.compile_updates)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The layout of a run, the same on every host.

    Attributes:
        shapes: of its batches, the cheapest first; a batch takes the first that holds it. A batch
            that fits none gets `multiple_of` more rows of the last one at a time.
        max_segments: the most sequences that fit a row of any shape.
        input_fill, target_fill: expected share of positions that hold a token.
    """

    spec: PlanSpec
    shapes: tuple[BatchShape, ...]
    max_segments: int
    input_fill: float
    target_fill: float

    @property
    def largest(self) -> BatchShape:
        """The shape that holds the heaviest batches."""
        return self.shapes[-1]

    def __str__(self) -> str:
        shapes = [f"{rows}x{inputs}/{targets}" for rows, inputs, targets in self.shapes]
        how = "packed into" if self.spec.pack else "in"
        return (
            f"{self.spec.batch_size} questions {how} {' or '.join(shapes)} (rows x encoder/decoder "
            f"tokens), {self.input_fill:.0%} and {self.target_fill:.0%} full"
        )


def make_plan(questions: TrainingQuestions, spec: PlanSpec) -> Plan:
    """Fixes the batch shapes of a whole run, from token counts alone."""
    fixed = None if spec.row_lengths is None else RowLengths(*spec.row_lengths)
    if fixed:
        questions.check_fit(fixed)
    if spec.pack:
        sample = _sample(questions, spec)
        shapes = _packed_shapes(questions, spec, sample, fixed)
        fills = _fills(sample, shapes)
    else:
        row_lengths = fixed or RowLengths(
            *(round_up(length, _WIDTH_MULTIPLE) for length in questions.longest())
        )
        rows = round_up(spec.batch_size * questions.most_placed, spec.multiple_of)
        shapes = (BatchShape(rows, *row_lengths),)
        per_row = spec.batch_size / len(questions) / rows
        tokens = questions.tokens(members(len(questions), spec.seed, 0, len(questions)))
        inputs, targets = tokens.sum(axis=1).tolist()
        fills = (inputs * per_row / row_lengths.inputs, targets * per_row / row_lengths.targets)
    max_segments = questions.most_brought // questions.most_placed
    if spec.pack:
        max_segments = max(questions.most_in(shape.row_lengths) for shape in shapes)
    return Plan(spec, shapes, max_segments, *fills)


def shape_for(batches: Sequence[Lengths], multiple_of: int = 1, emb_dim: int = 512) -> BatchShape:
    """The one shape that holds all of these batches at the least cost."""
    group = Group.of(batches)
    longest = RowLengths(int(group.inputs.max()), int(group.targets.max()))
    costs = CostModel(ATTENTION_WIDTHS * emb_dim, 0)
    ladder = Ladder(group, group, longest, multiple_of=multiple_of, costs=costs)
    return _grown(ladder.choose(1, most=1), group, multiple_of)[-1]


def _packed_shapes(
    questions: TrainingQuestions, spec: PlanSpec, sample: Group, fixed: RowLengths | None
) -> tuple[BatchShape, ...]:
    heavy = _heaviest(questions, spec)
    ladder = Ladder(
        sample,
        heavy,
        questions.longest(),
        multiple_of=spec.multiple_of,
        costs=spec.costs,
        row_lengths=fixed,
    )
    shapes = _grown(ladder.choose(spec.steps), heavy, spec.multiple_of)
    return shapes if fixed else tighten(shapes, sample, spec.costs)


def _grown(
    shapes: tuple[BatchShape, ...], group: Group, multiple_of: int
) -> tuple[BatchShape, ...]:
    """The shapes, with more rows in the last one where a batch fits none of them."""
    *others, last = shapes
    fits = np.any([packing.place_all(group, shape).fits for shape in shapes], axis=0)
    left = group.take(np.flatnonzero(~fits))
    while not packing.place_all(left, last).fits.all():
        last = last._replace(rows=last.rows + multiple_of)
    return (*others, last)


def _fills(sample: Group, shapes: tuple[BatchShape, ...]) -> tuple[float, float]:
    """Shares of encoder and decoder positions that hold a token in the sampled batches."""
    left = np.arange(len(sample.inputs))
    positions = np.zeros(2, np.int64)
    for shape in (*shapes, shapes[-1]):
        fits = packing.place_all(sample.take(left), shape).fits
        count = int(fits.sum())
        positions += np.array([shape.inputs, shape.targets]) * shape.rows * count
        left = left[~fits]
    used = np.setdiff1d(np.arange(len(sample.inputs)), left)
    tokens = (int(sample.inputs[used].sum()), int(sample.targets[used].sum()))
    return tokens[0] / max(1, int(positions[0])), tokens[1] / max(1, int(positions[1]))


def _group(questions: TrainingQuestions, spec: PlanSpec, steps: Int[np.ndarray, " steps"]) -> Group:
    size = spec.batch_size
    n = len(questions)
    batches = (members(n, spec.seed, s * size, (s + 1) * size) for s in steps.tolist())
    return Group.of([questions.lengths(questions.examples(batch)) for batch in batches])


def _sample(questions: TrainingQuestions, spec: PlanSpec) -> Group:
    """Batches of steps evenly spread over the run's first epochs."""
    per_step = spec.batch_size * questions.most_placed
    count = min(spec.steps, max(16, _SAMPLE_EXAMPLES // per_step))
    last = min(spec.steps, -(-8 * len(questions) // spec.batch_size) + count)
    return _group(questions, spec, np.unique(np.linspace(0, last - 1, count).astype(np.int64)))


def _heaviest(questions: TrainingQuestions, spec: PlanSpec) -> Group:
    """The run's heaviest batches in encoder tokens, in decoder tokens, and in both."""
    steps = min(spec.steps, -(-_PLAN_EPOCHS * len(questions) // spec.batch_size))
    totals = _step_totals(questions, spec, steps)
    inputs, targets = (each * 2**20 // max(1, int(each.max())) for each in totals)
    count = max(4, min(_HEAVY, _SAMPLE_EXAMPLES // spec.batch_size))
    heaviest = [
        np.argsort(-load, kind="stable")[:count] for load in (inputs, targets, inputs + targets)
    ]
    return _group(questions, spec, np.unique(np.concatenate(heaviest)))


def _step_totals(
    questions: TrainingQuestions, spec: PlanSpec, steps: int
) -> Int[np.ndarray, "2 steps"]:
    """Input and target tokens of every step; computed in chunks, so memory stays bounded."""
    size = spec.batch_size
    chunk = max(1, 2**20 // size)
    totals = []
    for start in range(0, steps, chunk):
        stop = min(start + chunk, steps)
        here = members(len(questions), spec.seed, start * size, stop * size)
        totals.append(questions.tokens(here).reshape(2, stop - start, size).sum(axis=-1))
    return np.concatenate(totals, axis=1)
