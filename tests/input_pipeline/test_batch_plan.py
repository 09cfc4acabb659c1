"""The batch shapes of a run: few, full, and wide enough for everything."""

import numpy as np
import pytest
from helpers.tables import MemoryTable, lengths_like, tables_of

from sbs_jax.input_pipeline import batch_plan, packing
from sbs_jax.input_pipeline.batch_plan import PlanSpec, TrainingQuestions, make_plan, shape_for
from sbs_jax.input_pipeline.batches import Batches
from sbs_jax.input_pipeline.packing import Group, Lengths
from sbs_jax.input_pipeline.shape_ladder import MAX_SHAPES, CostModel, Ladder

DATASETS = ("cqa", "svamp", "esnli", "anli1")


def plan_of(name, batch_size, n=2000, **options):
    questions = TrainingQuestions(tables_of(*lengths_like(name, n)), np.arange(n))
    return make_plan(
        questions, PlanSpec(**{"steps": 5000, "seed": 0} | options, batch_size=batch_size)
    )


@pytest.mark.parametrize(("batch_size", "inputs", "targets"), [(8, 0.9, 0.75), (32, 0.91, 0.78)])
@pytest.mark.parametrize("name", DATASETS)
def test_batches_are_full(name, batch_size, inputs, targets):
    """ANLI's targets are the emptiest: one of 112 tokens makes long rows, most have 2."""
    plan = plan_of(name, batch_size)
    assert plan.input_fill >= inputs and plan.target_fill >= targets
    assert 1 < len(plan.shapes) <= MAX_SHAPES


@pytest.mark.parametrize("name", DATASETS)
def test_what_the_plan_promises_the_run_keeps(name):
    """Fill over steps that were not looked at, within 3 points; every batch in a planned shape."""
    n = 400
    made = Batches(tables_of(*lengths_like(name, n)), np.arange(n), PlanSpec(8, 3000, seed=1))
    tokens, positions = np.zeros(2), np.zeros(2)
    for step in range(1003, 1083):
        batch = made[step]
        assert made.shape(step) in made.plan.shapes
        for side, stream in enumerate(("encoder", "decoder")):
            tokens[side] += np.count_nonzero(batch[f"{stream}_segment_ids"])
            positions[side] += batch[f"{stream}_segment_ids"].size
    promised = np.array([made.plan.input_fill, made.plan.target_fill])
    assert (np.abs(tokens / positions - promised) < 0.03).all()


@pytest.mark.parametrize("multiple_of", [1, 4, 8])
def test_shapes_hold_the_longest_sequence_and_divide(multiple_of):
    inputs, targets = lengths_like("cqa", 500)
    inputs[:, 77], targets[:, 78] = 300, 150
    questions = TrainingQuestions(tables_of(inputs, targets), np.arange(500))
    plan = make_plan(questions, PlanSpec(8, 2000, 0, multiple_of=multiple_of))
    assert plan.largest.inputs >= 300 and plan.largest.targets >= 150
    for rows, width, targets in plan.shapes:
        assert (rows % multiple_of, width % 8, targets % 4) == (0, 0, 0)


def test_given_row_lengths_are_kept_and_rows_follow_the_batch():
    plan = plan_of("cqa", 8, row_lengths=(128, 96))
    assert {shape.row_lengths for shape in plan.shapes} == {(128, 96)}
    rows = [shape.rows for shape in plan.shapes]
    assert len(rows) == len(set(rows)) > 1 and rows == sorted(rows)


def test_a_short_run_or_costly_compilation_gets_one_shape():
    assert len(plan_of("cqa", 8, steps=10).shapes) == 1
    assert len(plan_of("cqa", 8, compile_updates=10**6).shapes) == 1
    assert len(plan_of("cqa", 8, compile_updates=0).shapes) == MAX_SHAPES


def test_more_shapes_never_cost_more():
    inputs, targets = lengths_like("svamp", 400)
    questions = TrainingQuestions(tables_of(inputs, targets), np.arange(400))
    spec = PlanSpec(8, 2000, 0)
    sample = batch_plan._sample(questions, spec)
    costs = CostModel(3000, 0)
    ladder = Ladder(sample, sample, questions.longest(), multiple_of=1, costs=costs)

    def cost(shapes):
        table = [np.where(packing.place_all(sample, s).fits, costs.of(s), 2**50) for s in shapes]
        return np.min(table, axis=0).sum()

    paid = [cost(ladder.choose(10**6, most)) for most in range(1, 6)]
    assert paid == sorted(paid, reverse=True) and paid[-1] < 0.95 * paid[0]


def test_narrow_models_get_shorter_rows():
    narrow, wide = (plan_of("cqa", 32, emb_dim=dim, compile_updates=10**6) for dim in (64, 4096))
    assert narrow.largest.inputs < wide.largest.inputs


def test_the_plan_says_its_shapes_and_fill():
    plan = plan_of("cqa", 8, pack=False)
    assert str(plan) == (
        "8 questions in 16x{}/{} (rows x encoder/decoder tokens), {:.0%} and {:.0%} full".format(
            *plan.largest[1:], plan.input_fill, plan.target_fill
        )
    )
    assert str(plan_of("cqa", 8)).startswith("8 questions packed into ")


def test_one_shape_for_given_batches_holds_them_all():
    inputs, targets = lengths_like("cqa", 64)
    batches = [
        Lengths(inputs[:, i : i + 16].ravel(), targets[:, i : i + 16].ravel()) for i in (0, 16, 32)
    ]
    shape = shape_for(batches, multiple_of=2)
    assert packing.place_all(Group.of(batches), shape).fits.all() and shape.rows % 2 == 0
    assert inputs[:, :48].sum() / (3 * shape.rows * shape.inputs) > 0.8


def test_one_example_needs_one_row():
    lengths = Lengths(np.array([20]), np.array([5]))
    assert shape_for([lengths]).rows == 1
    one = TrainingQuestions([(1, MemoryTable([20, 20, 20], [5, 5, 5]))], np.arange(3))
    assert make_plan(one, PlanSpec(3, 10, 0, pack=False)).largest.rows == 3


def test_the_plan_knows_how_many_sequences_a_row_can_hold():
    tables = tables_of(*lengths_like("cqa", 200))
    packed = Batches(tables, np.arange(200), PlanSpec(8, 100, 0))
    segments = max(int(packed[step]["decoder_segment_ids"].max()) for step in range(100))
    assert 1 < segments <= packed.plan.max_segments
    assert Batches(tables, np.arange(200), PlanSpec(8, 100, 0, pack=False)).plan.max_segments == 1


def test_every_step_of_a_run_is_searched_for_the_heaviest_batches():
    n, steps = 300, 2000
    questions = TrainingQuestions(tables_of(*lengths_like("svamp", n)), np.arange(n))
    spec = PlanSpec(8, steps, seed=5)
    everything = batch_plan._group(questions, spec, np.arange(steps))
    totals = np.stack([everything.inputs.sum(axis=1), everything.targets.sum(axis=1)])
    np.testing.assert_array_equal(batch_plan._step_totals(questions, spec, steps), totals)
    heavy = batch_plan._heaviest(questions, spec)
    assert heavy.inputs.sum(axis=1).max() == totals[0].max()
    assert heavy.targets.sum(axis=1).max() == totals[1].max()


def test_a_batch_heavy_on_both_sides_counts_as_heavy():
    """60 questions are longer in the encoder, 60 in the decoder; only one is long in both."""
    inputs, targets = np.array([90, *60 * [100], *60 * [1]]), np.array([9, *60 * [1], *60 * [10]])
    questions = TrainingQuestions([(1, MemoryTable(inputs, targets))], np.arange(len(inputs)))
    heavy = batch_plan._heaviest(questions, PlanSpec(1, len(inputs), seed=0))
    assert 90 in heavy.inputs


@pytest.mark.slow
def test_a_plan_of_half_a_million_questions_is_small_and_quick():
    """e-SNLI's size: process time and memory as docs/performance.md states them, with room."""
    import time
    import tracemalloc

    n = 549_367
    tables = tables_of(*lengths_like("esnli", n))
    tracemalloc.start()
    began = time.process_time()
    made = Batches(tables, np.arange(n), PlanSpec(64, 30_000, 0))
    made[17]
    seconds, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 30 and peak < 300e6
