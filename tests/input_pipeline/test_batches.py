"""A batch is a function of (seed, step): whatever the hosts, the layout or the moment of asking."""

import collections
import dataclasses
import logging
import threading
import time

import numpy as np
import pytest
from helpers.packed import read_back
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_jax.errors import UserError
from sbs_jax.input_pipeline.batch_plan import PlanSpec, stream
from sbs_jax.input_pipeline.batches import Batches, eval_batches, iterate
from sbs_jax.input_pipeline.packing import RowLengths
from sbs_jax.input_pipeline.shape_ladder import MAX_SHAPES

LABEL, RATIONALE = 1, 2


class MemoryTable:
    """`tokens.TokenTable`'s interface over arrays in memory; tokens tell row and view."""

    def __init__(self, input_lengths, target_lengths, view=LABEL):
        self.input_lengths = np.asarray(input_lengths, np.int32)
        self.target_lengths = np.asarray(target_lengths, np.int32)
        self.n = len(self.input_lengths)
        self.ids = [f"q{row}" for row in range(self.n)]
        self._view = view

    def inputs(self, row):
        return self._tokens(row, 0, self.input_lengths[row])

    def targets(self, row):
        return self._tokens(row, 50, self.target_lengths[row])

    def _tokens(self, row, offset, length):
        start = 1000 * row + 100 * self._view + offset
        return np.arange(start, start + length, dtype=np.int32)


def two_tables(n, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    inputs = rng.integers(3, 40, n)
    rationales = np.where(rng.random(n) < missing, 0, rng.integers(4, 30, n))
    label = MemoryTable(inputs, rng.integers(2, 5, n), LABEL)
    return [(LABEL, label), (RATIONALE, MemoryTable(inputs + 1, rationales, RATIONALE))]


def make(n=50, *, rows=None, missing=0.2, tables=None, **options):
    options = {"batch_size": 8, "steps": 30, "seed": 3} | options
    rows = np.arange(n) if rows is None else rows
    return Batches(tables or two_tables(n, missing=missing), rows, PlanSpec(**options))


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def expected(tables, rows):
    """The examples that the questions `rows` bring, as `read_back` gives them."""
    return collections.Counter(
        (tuple(table.inputs(row).tolist()), tuple(table.targets(row).tolist()), task)
        for row in rows
        for task, table in tables
        if table.target_lengths[row]
    )


@pytest.mark.parametrize("pack", [True, False])
def test_a_batch_holds_both_tasks_of_its_questions(pack):
    tables = two_tables(50, missing=0.3)
    made = make(tables=tables, pack=pack)
    for step in range(len(made)):
        rows = [int(name[1:]) for name in made.ids(step)]
        assert len(rows) == 8
        assert read_back(made[step]) == expected(tables, rows)


@settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 40),
    batch_size=st.integers(1, 12),
    seed=st.integers(-(2**40), 2**70),
    pack=st.booleans(),
)
def test_each_epoch_sees_every_question_once(n, batch_size, seed, pack):
    epochs = 3
    steps = -(-epochs * n // batch_size)
    made = make(n, batch_size=batch_size, steps=steps, seed=seed, pack=pack, missing=0.0)
    order = [name for step in range(steps) for name in made.ids(step)]
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == sorted(f"q{row}" for row in range(n))


def test_fewer_questions_than_a_batch_cross_epochs():
    made = make(3, batch_size=8, steps=4, missing=0.0)
    counts = collections.Counter(made.ids(0))
    assert sum(counts.values()) == 8 and set(counts.values()) == {2, 3}
    assert sum(read_back(made[0]).values()) == 16


def test_epochs_and_seeds_differ_in_order():
    first, second, other = stream(50, 3, 0, 50), stream(50, 3, 50, 100), stream(50, 4, 0, 50)
    assert sorted(first) == sorted(second) == sorted(other) == list(range(50))
    assert len({tuple(order.tolist()) for order in (first, second, other)}) == 3


def test_the_order_is_pinned():
    """A change here changes every run: numpy's Philox and permutation are part of the contract."""
    first = [0, 7, 8, 6, 9, 5, 1, 3, 2, 4]
    second = [9, 4, 2, 1, 0, 7, 8, 5, 3, 6]
    assert stream(10, 0, 0, 20).tolist() == first + second


@pytest.mark.parametrize("pack", [True, False])
def test_a_batch_is_the_same_whenever_it_is_asked_for(pack):
    run, later = make(pack=pack), make(pack=pack)
    in_order = [run[step] for step in range(len(run))]
    for step in (29, 0, 17, 17):
        assert equal(later[step], in_order[step])


@settings(deadline=None, max_examples=20)
@given(hosts=st.sampled_from([1, 2, 3, 4, 6]), step=st.integers(0, 29), pack=st.booleans())
def test_hosts_together_make_the_global_batch(hosts, step, pack):
    made = make(multiple_of=12, pack=pack)
    parts = [made.shard(index, hosts)[step] for index in range(hosts)]
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    assert equal(joined, made[step])
    assert len({len(part["encoder_positions"]) for part in parts}) == 1


def test_hosts_that_do_not_divide_the_rows_are_refused():
    with pytest.raises(UserError, match="5 hosts"):
        make(multiple_of=12).shard(0, 5)


@settings(deadline=None, max_examples=20)
@given(step=st.integers(0, 29), multiple_of=st.sampled_from([1, 2, 8]))
def test_packing_changes_the_layout_only(step, multiple_of):
    packed = make(multiple_of=multiple_of)
    unpacked = make(multiple_of=multiple_of, pack=False)
    assert read_back(packed[step]) == read_back(unpacked[step])
    assert packed.ids(step) == unpacked.ids(step)
    assert set(packed[step]) == set(unpacked[step])


def test_unpacked_rows_hold_one_sequence_each():
    made = make(pack=False, missing=0.0)
    assert made.plan.shapes == ((16, 40, 32),)  # longest 40 and 29
    for array in (made[0]["encoder_segment_ids"], made[0]["decoder_segment_ids"]):
        assert set(array.max(axis=1).tolist()) == {1}


@pytest.mark.parametrize("multiple_of", [1, 4])
def test_every_batch_of_a_run_has_a_planned_shape(multiple_of):
    made = make(n=300, batch_size=16, steps=200, multiple_of=multiple_of, compile_updates=0)
    shapes = set()
    for step in range(len(made)):
        (rows, inputs), (_, targets) = (
            made[step][f"{side}_positions"].shape for side in ("encoder", "decoder")
        )
        assert made.shape(step) == (rows, inputs, targets)
        shapes.add((rows, inputs, targets))
    assert shapes <= set(made.plan.shapes)
    assert 1 < len(shapes) <= len(made.plan.shapes) <= MAX_SHAPES
    assert all(rows % multiple_of == 0 for rows, _, _ in shapes)


def test_a_batch_heavier_than_the_plan_grows_and_is_logged(caplog):
    made = make(multiple_of=2, row_lengths=(40, 32))
    enough = made.plan.largest.rows
    few = (made.plan.largest._replace(rows=2),)
    made.plan = dataclasses.replace(made.plan, shapes=few)
    with caplog.at_level(logging.WARNING):
        batch = made[4]
    assert read_back(batch) == read_back(make()[4])
    rows = len(batch["encoder_positions"])
    assert 2 < rows <= enough and rows % 2 == 0
    assert f"step 4: this batch takes {rows} rows instead of 2" in caplog.text


def test_a_record_without_any_target_is_left_out():
    tables = [(LABEL, MemoryTable([5] * 6, [3, 0, 3, 0, 3, 3]))]
    made = make(6, tables=tables, batch_size=4, steps=3)
    assert {name for step in range(3) for name in made.ids(step)} == {"q0", "q2", "q4", "q5"}


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("step", [30, -1])
def test_a_run_has_no_other_steps(step, pack):
    made = make(steps=30, pack=pack)
    for ask in (made.__getitem__, made.ids, made.shape):
        with pytest.raises(IndexError):
            ask(step)


def test_selected_rows_are_the_ones_used():
    made = make(rows=np.array([7, 11, 30]), batch_size=3, steps=2, missing=0.0)
    assert sorted(made.ids(0)) == sorted(made.ids(1)) == ["q11", "q30", "q7"]


def test_a_sequence_longer_than_the_row_is_named():
    with pytest.raises(UserError, match=r"input of record 'q\d+' has \d+ tokens, a row holds 16"):
        make(row_lengths=RowLengths(16, 64))
    with pytest.raises(UserError, match=r"target of record 'q\d+' has \d+ tokens, a row holds 8"):
        make(row_lengths=RowLengths(64, 8), pack=False)


@pytest.mark.parametrize(
    ("rows", "lengths"), [(np.arange(0), [3] * 4), (np.arange(4), [0] * 4)], ids=["none", "blank"]
)
def test_nothing_to_train_on_is_refused(rows, lengths):
    with pytest.raises(UserError, match="has a target"):
        make(rows=rows, tables=[(LABEL, MemoryTable([5] * 4, lengths))])


@pytest.mark.parametrize("option", ["batch_size", "steps"])
def test_sizes_below_one_are_refused(option):
    with pytest.raises(UserError, match="must be at least 1"):
        make(**{option: 0})


@pytest.mark.parametrize("prefetch", [0, 3])
def test_iterate_gives_the_batches_in_order(prefetch):
    made = make()
    got = dict(iterate(made, 5, 12, prefetch))
    assert list(got) == list(range(5, 12))
    assert all(equal(batch, made[step]) for step, batch in got.items())
    assert [step for step, _ in iterate(made, 28)] == [28, 29]
    assert list(iterate(made, 30)) == []


@pytest.mark.parametrize("prefetch", [0, 2])
def test_what_is_put_is_put_by_the_thread_that_makes_batches(prefetch):
    threads = []

    def put(batch):
        threads.append(threading.current_thread())
        return {name: array.shape for name, array in batch.items()}

    made = make()
    with iterate(made, 0, 4, prefetch, put) as batches:
        assert [batch["encoder_positions"] for _, batch in batches] == [
            made.shape(step)[:2] for step in range(4)
        ]
    main = threading.main_thread()
    assert all((thread is main) == (prefetch == 0) for thread in threads)


def test_the_thread_ends_with_an_iteration_that_is_left_early():
    before = threading.active_count()
    with iterate(make(), 0, 20, prefetch=3) as batches:
        next(batches)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before


def test_waiting_for_batches_is_counted():
    with iterate(make(), 0, 3, put=lambda batch: time.sleep(0.1)) as slow:
        list(slow)
    assert 0.2 < slow.waited < 10
    with iterate(make(), 0, 1) as ready:
        time.sleep(0.5)
        next(ready)
    assert ready.waited < 0.1


def test_a_mistake_in_a_batch_reaches_the_loop_that_reads_it():
    tables = two_tables(50)
    made = make(tables=tables)
    tables[0][1].inputs = lambda row: 1 // 0
    with pytest.raises(ZeroDivisionError):
        next(iterate(made))


@settings(deadline=None, max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=30),
    batch_size=st.integers(1, 9),
    part_size=st.integers(1, 5),
)
def test_evaluation_sees_every_row_exactly_once(lengths, batch_size, part_size):
    table = MemoryTable([9, *lengths], [2] * (len(lengths) + 1))
    rows = np.arange(1, len(lengths) + 1)
    seen = []
    for places, parts in eval_batches(table, rows, batch_size, part_size, 8):
        assert len(places) == batch_size == sum(map(len, parts))
        assert all(len(part) <= part_size and part.dtype == np.int32 for part in parts)
        for part in parts:
            longest = max(np.count_nonzero(part, axis=1))
            assert part.shape[1] % 8 == 0 and (part.shape[1] - longest < 8 or not longest)
        lines = [line for part in parts for line in part]
        for place, line in zip(places.tolist(), lines, strict=True):
            want = table.inputs(rows[place]) if place >= 0 else np.zeros(0, np.int32)
            assert line[: len(want)].tolist() == want.tolist() and not line[len(want) :].any()
            seen += [place] if place >= 0 else []
    assert sorted(seen) == list(range(len(lengths)))
