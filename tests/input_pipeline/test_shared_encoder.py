"""With a shared encoder a question is placed once, and its targets read it in the same row."""

import collections

import numpy as np
import pytest
from helpers.packed import read_shared
from helpers.tables import MemoryTable, lengths_like, tables_of

from sbs_jax.errors import UserError
from sbs_jax.input_pipeline.batch_plan import PlanSpec
from sbs_jax.input_pipeline.batches import Batches
from sbs_jax.input_pipeline.packing import Placement, RowLengths, fill
from sbs_jax.input_pipeline.questions import Members, TrainingQuestions

LABEL, RATIONALE = 1, 2


def tables(n: int = 60) -> list[tuple[int, MemoryTable]]:
    """Questions with a label and, but for every fifth, a rationale; tokens tell the question."""
    rng = np.random.default_rng(0)
    inputs, rationales = rng.integers(3, 40, n), rng.integers(4, 30, n)
    rationales[::5] = 0
    return [
        (LABEL, Numbered(inputs, rng.integers(2, 5, n), 1000)),
        (RATIONALE, Numbered(inputs, rationales, 2000)),
    ]


class Numbered(MemoryTable):
    """Every token of a record is its number, from 1 on, and in targets the view's."""

    def inputs(self, row):
        return np.full(self.input_lengths[row], row + 1, np.int32)

    def targets(self, row):
        return np.full(self.target_lengths[row], self._view + row, np.int32)


def make(pack: bool = True, **options) -> Batches:
    options = {"batch_size": 8, "steps": 20, "seed": 3, "pack": pack} | options
    found = tables()
    return Batches(found, np.arange(found[0][1].n), PlanSpec(shared_encoder=True, **options))


def expected(made: Batches, step: int) -> collections.Counter:
    """(input, target, task) of the questions of a step."""
    return collections.Counter(
        (tuple(table.inputs(row).tolist()), tuple(table.targets(row).tolist()), task)
        for row in map(int, made.ids(step))
        for task, table in tables()
        if table.target_lengths[row]
    )


@pytest.mark.parametrize("pack", [True, False])
def test_every_target_reads_its_question_which_is_there_once(pack):
    made = make(pack)
    for step in range(len(made)):
        batch = made[step]
        assert read_shared(batch) == expected(made, step)
        assert batch["encoder_segment_ids"].astype(bool).sum() == sum(
            tables()[0][1].input_lengths[int(name)] for name in made.ids(step)
        )


def test_hosts_together_make_the_global_batch():
    made = make(multiple_of=4)
    parts = [made.shard(index, 4)[7] for index in range(4)]
    for name, whole in made[7].items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole)


def test_the_layout_of_two_questions_in_a_row():
    inputs = [np.array([7, 8, 1]), np.array([9, 1])]
    targets = [np.array([5, 1]), np.array([4, 6, 1]), np.array([3, 1])]
    placement = Placement(np.array([0, 0]), np.array([1, 2]), 1)
    batch = fill(
        inputs, targets, np.array([1, 2, 2]), placement, RowLengths(6, 8), 1, np.array([0, 0, 1])
    )
    assert batch["encoder_segment_ids"].tolist() == [[1, 1, 1, 2, 2, 0]]
    assert batch["decoder_input_tokens"].tolist() == [[0, 5, 1, 4, 6, 1, 3, 0]]
    assert batch["decoder_target_tokens"].tolist() == [[5, 1, 4, 6, 1, 3, 1, 0]]
    assert batch["decoder_segment_ids"].tolist() == [[1, 1, 2, 2, 2, 3, 3, 0]]
    assert batch["decoder_source_ids"].tolist() == [[1, 1, 1, 1, 1, 2, 2, 0]]
    assert batch["decoder_task_ids"].tolist() == [[1, 1, 2, 2, 2, 2, 2, 0]]


def test_a_question_twice_in_a_batch_is_placed_twice():
    found = [(RATIONALE, MemoryTable([4, 5], [6, 7]))]
    made = Batches(found, np.arange(2), PlanSpec(8, 2, 0, pack=False, shared_encoder=True))
    assert (made[0]["encoder_segment_ids"].max(axis=1) == 1).all()
    assert made.plan.largest == (8, 8, 8)


def test_of_alternatives_the_drawn_one_is_placed():
    found = [*tables(), (RATIONALE, Numbered(tables()[0][1].input_lengths, np.full(60, 5), 3000))]
    made = Batches(found, np.arange(60), PlanSpec(8, 8, 0, shared_encoder=True))
    for step in range(len(made)):
        counts = collections.Counter(task for _, _, task in read_shared(made[step]).elements())
        assert counts == {LABEL: 8, RATIONALE: 8}
    everything = Batches(found, np.arange(60), PlanSpec(8, 8, 0, draw=False, shared_encoder=True))
    brought = [sum(read_shared(everything[step]).values()) for step in range(8)]
    assert brought == [24 - sum(int(i) % 5 == 0 for i in everything.ids(s)) for s in range(8)]


def test_targets_that_fit_no_row_together_are_named():
    with pytest.raises(UserError, match=r"joint target of record \d+ has \d+ tokens, a row holds"):
        make(row_lengths=(40, 29))


def test_half_of_the_encoder_tokens_are_left():
    inputs, targets = lengths_like("cqa", 400)
    found = tables_of(np.stack([inputs[0], inputs[0]]), targets)
    own, shared = (
        Batches(found, np.arange(400), PlanSpec(64, 200, 0, shared_encoder=flag)).plan
        for flag in (False, True)
    )
    positions = [plan.largest.rows * plan.largest.inputs for plan in (own, shared)]
    assert positions[1] < 0.56 * positions[0]
    assert shared.input_fill > 0.85 and shared.target_fill > 0.8


def test_every_target_of_a_row_has_its_own_dropout_masks_and_inputs_count_once():
    sides = np.full((2, 30), 20), np.stack([np.full(30, 2), np.full(30, 6)])
    members = Members(np.arange(30), np.zeros(30, np.int64))
    questions = TrainingQuestions(tables_of(*sides), np.arange(30), 0, shared_encoder=True)
    assert questions.tokens(members).tolist() == [[20] * 30, [8] * 30]
    made = Batches(tables_of(*sides), np.arange(30), PlanSpec(8, 20, 0, shared_encoder=True))
    most = max(int(made[step]["decoder_segment_ids"].max()) for step in range(20))
    assert most == made.plan.max_segments > 2
