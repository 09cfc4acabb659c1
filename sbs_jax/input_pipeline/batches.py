"""Token tables + (seed, step) -> one model batch, and the order in which a run sees its questions.

A run reads an infinite stream: epoch 0's shuffle of the selected questions, then epoch 1's, and so
on. Batch t is the stream's positions [t * batch_size, (t + 1) * batch_size), across the border of
two epochs where it falls so: nothing is skipped and no batch is partial. A batch therefore depends
on (seed, step) only; resuming needs only the step, and packing, hosts and devices change where a
question lies, never which questions make up a step.
"""

import copy
import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Shaped

from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import packing
from sbs_jax.input_pipeline.packing import Batch, Lengths, Placement, RowLengths, round_up

_log = logging.getLogger(__name__)

_WIDTH_MULTIPLE = 8
# Questions packed to find the rows of a run: its heaviest 200 batches of 64.
_PLAN_QUESTIONS = 200 * 64
# Epochs looked at to find the heaviest batches; a rare heavier one later grows (`Batches`).
_PLAN_EPOCHS = 4096


@runtime_checkable
class Table(Protocol):
    """Token ids of one view of a file's records, one row per record (`tokens.TokenTable`).

    A record without a target in this view has target length 0.
    """

    n: int
    ids: Sequence[str]
    input_lengths: Int[np.ndarray, " n"]
    target_lengths: Int[np.ndarray, " n"]

    def inputs(self, row: int) -> Int[np.ndarray, " length"]: ...

    def targets(self, row: int) -> Int[np.ndarray, " length"]: ...


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


class Questions:
    """The selected records that have a target in at least one view, with their token counts.

    Attributes:
        rows: their rows in the tables, in file or selection order.
        input_lengths, target_lengths: int64 [views, questions]; 0 where a view has no target.
    """

    def __init__(self, tables: Sequence[tuple[int, Table]], rows: Int[np.ndarray, " rows"]) -> None:
        self.tables = tuple(tables)
        rows = np.asarray(rows, np.int64)
        targets = np.stack([np.asarray(t.target_lengths)[rows] for _, t in tables]).astype(np.int64)
        inputs = np.stack([np.asarray(t.input_lengths)[rows] for _, t in tables]).astype(np.int64)
        asked = np.any(targets > 0, axis=0)
        if not asked.any():
            raise UserError(
                f"training data: none of the {len(rows)} selected examples has a target; check "
                "the split, the data fraction and that the file has labels and rationales"
            )
        self.rows = rows[asked]
        self.target_lengths = targets[:, asked]
        self.input_lengths = np.where(self.target_lengths > 0, inputs[:, asked], 0)

    def __len__(self) -> int:
        return len(self.rows)

    def longest(self) -> RowLengths:
        """The longest input and the longest target of any sequence."""
        return RowLengths(int(self.input_lengths.max()), int(self.target_lengths.max()))

    def most_in(self, row_lengths: RowLengths) -> int:
        """How many of the shortest sequences would fit one row."""
        asked = self.target_lengths > 0
        by_input = row_lengths.inputs // int(self.input_lengths[asked].min())
        by_target = row_lengths.targets // int(self.target_lengths[asked].min())
        return max(1, min(by_input, by_target))

    def examples(self, questions: Int[np.ndarray, " questions"]) -> Int[np.ndarray, "2 examples"]:
        """(view, question) of every sequence of these questions, the views of one side by side."""
        views = np.tile(np.arange(len(self.tables)), len(questions))
        which = np.repeat(questions, len(self.tables))
        return np.stack([views, which])[:, self.target_lengths[views, which] > 0]

    def lengths(self, examples: Int[np.ndarray, "2 examples"]) -> Lengths:
        view, question = examples
        return Lengths(self.input_lengths[view, question], self.target_lengths[view, question])

    def check_fit(self, row_lengths: RowLengths) -> None:
        """Raises UserError naming the first record that does not fit a row."""
        for name, lengths, room in (
            ("input", self.input_lengths, row_lengths.inputs),
            ("target", self.target_lengths, row_lengths.targets),
        ):
            view, question = np.unravel_index(int(np.argmax(lengths > room)), lengths.shape)
            if lengths[view, question] > room:
                record = self.tables[view][1].ids[int(self.rows[question])]
                raise UserError(
                    f"row lengths: the {name} of record {record!r} has {lengths[view, question]} "
                    f"tokens, a row holds {room}; use longer rows or a smaller TASK_FEATURE_LENGTHS"
                )


@dataclasses.dataclass(frozen=True)
class Plan:
    """The one layout of a run, the same on every host.

    Attributes:
        rows: rows of every batch; a batch that needs more gets `multiple_of` more at a time.
        segments: the most sequences that fit a row.
        input_fill, target_fill: expected share of positions that hold a token.
    """

    packed: bool
    batch_size: int
    seed: int
    multiple_of: int
    rows: int
    row_lengths: RowLengths
    segments: int
    input_fill: float
    target_fill: float

    def __str__(self) -> str:
        how = "packed into" if self.packed else "in"
        return (
            f"{self.batch_size} questions {how} {self.rows} rows of {self.row_lengths.inputs} "
            f"encoder and {self.row_lengths.targets} decoder tokens, {self.input_fill:.0%} and "
            f"{self.target_fill:.0%} full"
        )


def make_plan(
    questions: Questions,
    *,
    batch_size: int,
    steps: int,
    seed: int,
    pack: bool,
    multiple_of: int,
    row_lengths: tuple[int, int] | None,
    emb_dim: int,
) -> Plan:
    """Fixes rows and row lengths for a whole run, from token counts alone."""
    if row_lengths is not None:
        row_lengths = RowLengths(*row_lengths)
        questions.check_fit(row_lengths)
    if pack:
        rows, row_lengths = _packed_shape(
            questions, batch_size, steps, seed, multiple_of, row_lengths, emb_dim
        )
    else:
        rows = round_up(batch_size * len(questions.tables), multiple_of)
        row_lengths = row_lengths or RowLengths(
            *(round_up(length, _WIDTH_MULTIPLE) for length in questions.longest())
        )
    per_row = batch_size / len(questions) / rows
    return Plan(
        packed=pack,
        batch_size=batch_size,
        seed=seed,
        multiple_of=multiple_of,
        rows=rows,
        row_lengths=row_lengths,
        segments=questions.most_in(row_lengths) if pack else 1,
        input_fill=float(questions.input_lengths.sum()) * per_row / row_lengths.inputs,
        target_fill=float(questions.target_lengths.sum()) * per_row / row_lengths.targets,
    )


def _packed_shape(
    questions: Questions,
    batch_size: int,
    steps: int,
    seed: int,
    multiple_of: int,
    row_lengths: RowLengths | None,
    emb_dim: int,
) -> tuple[int, RowLengths]:
    """(rows, row lengths) that hold the run's heaviest batches."""
    steps = min(steps, -(-_PLAN_EPOCHS * len(questions) // batch_size))
    totals = _step_totals(questions, batch_size, steps, seed)
    count = max(20, _PLAN_QUESTIONS // batch_size)

    def heaviest(lengths: RowLengths) -> list[Lengths]:
        load = np.max(totals / np.array(lengths)[:, None], axis=0)
        worst = np.argsort(-load, kind="stable")[:count].tolist()
        starts = [step * batch_size for step in worst]
        batches = [stream(len(questions), seed, start, start + batch_size) for start in starts]
        return [questions.lengths(questions.examples(batch)) for batch in batches]

    if row_lengths is None:
        trial = heaviest(RowLengths(*totals.sum(axis=1).tolist()))
        trial = trial[: max(4, 2048 // batch_size)]
        row_lengths = packing.choose_row_lengths(trial, questions.longest(), multiple_of, emb_dim)
    return packing.rows_needed(heaviest(row_lengths), row_lengths, multiple_of), row_lengths


def _step_totals(
    questions: Questions, batch_size: int, steps: int, seed: int
) -> Int[np.ndarray, "2 steps"]:
    """Input and target tokens of every step; worked in chunks, so memory stays bounded."""
    each = np.stack([questions.input_lengths.sum(axis=0), questions.target_lengths.sum(axis=0)])
    chunk = max(1, 2**20 // batch_size)
    totals = []
    for start in range(0, steps, chunk):
        stop = min(start + chunk, steps)
        order = stream(len(questions), seed, start * batch_size, stop * batch_size)
        totals.append(each[:, order].reshape(2, stop - start, batch_size).sum(axis=-1))
    return np.concatenate(totals, axis=1)


class Batches:
    """The batches of a run by step: ``batches[t]``, for t from 0 to len(batches) - 1.

    Every batch has `plan.rows` rows of `plan.row_lengths`, so the train step compiles once. Should
    a batch not fit (the plan packs only the heaviest ones), it alone gets more rows, which is
    logged and costs one more compilation; no question is ever dropped.

    Args:
        tables: (task id, token table) of each view trained on; the same records in each.
        rows: the selected records (a split, a fraction of it).
        batch_size: questions per batch. A question brings one sequence for every view in which it
            has a target; a record without any is left out.
        steps: updates of the whole run.
        seed: of the order; any integer.
        pack: several sequences per row; else one per row, batch_size * len(tables) rows.
        multiple_of: rows are a multiple of this (batch shards x micro-batches).
        row_lengths: encoder and decoder positions of a row; None chooses them from the lengths
            and the model's width, `emb_dim`.

    Raises:
        UserError: nothing selected, or a sequence longer than the given row lengths.
    """

    def __init__(
        self,
        tables: Sequence[tuple[int, Table]],
        rows: Int[np.ndarray, " rows"],
        *,
        batch_size: int,
        steps: int,
        seed: int,
        pack: bool = True,
        multiple_of: int = 1,
        row_lengths: tuple[int, int] | None = None,
        emb_dim: int = 512,
    ) -> None:
        for name, number in (("BATCH_SIZE", batch_size), ("TRAIN_STEPS", steps)):
            if number < 1:
                raise UserError(f"{name} = {number}: must be at least 1")
        self._questions = Questions(tables, rows)
        self._task_ids = np.array([task_id for task_id, _ in tables])
        self._steps = steps
        self._host = (0, 1)
        self.plan = make_plan(
            self._questions,
            batch_size=batch_size,
            steps=steps,
            seed=seed,
            pack=pack,
            multiple_of=multiple_of,
            row_lengths=row_lengths,
            emb_dim=emb_dim,
        )

    def shard(self, index: int, count: int) -> "Batches":
        """The same batches, of which only the rows of block `index` of `count` are made.

        Raises UserError where the plan's rows do not divide evenly.
        """
        if self.plan.multiple_of % count:
            raise UserError(
                f"batch: rows are a multiple of {self.plan.multiple_of}, which {count} "
                "hosts do not divide evenly; use a mesh whose data shards are a multiple of them"
            )
        mine = copy.copy(self)
        mine._host = (index, count)
        return mine

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> Batch:
        """The model batch of a step: int32 [rows, row length] by name, see `packing.fill`."""
        examples = self._questions.examples(self._members(step))
        placement, rows = self._place(step, examples)
        index, count = self._host
        first, last = rows * index // count, rows * (index + 1) // count
        here = (placement.row >= first) & (placement.row < last)
        view, question = examples[:, here]
        row = self._questions.rows[question].tolist()
        tables = [self._questions.tables[v][1] for v in view.tolist()]
        return packing.fill(
            [table.inputs(r) for table, r in zip(tables, row, strict=True)],
            [table.targets(r) for table, r in zip(tables, row, strict=True)],
            self._task_ids[view],
            Placement(placement.row[here] - first, placement.segment[here], last - first),
            self.plan.row_lengths,
            last - first,
        )

    def ids(self, step: int) -> list[str]:
        """Record ids of a step's questions, in stream order."""
        ids = self._questions.tables[0][1].ids
        return [str(ids[row]) for row in self._questions.rows[self._members(step)].tolist()]

    def _members(self, step: int) -> Int[np.ndarray, " questions"]:
        if not 0 <= step < self._steps:
            raise IndexError(f"step {step} of a run of {self._steps}")
        start = step * self.plan.batch_size
        return stream(len(self._questions), self.plan.seed, start, start + self.plan.batch_size)

    def _place(self, step: int, examples: Int[np.ndarray, "2 examples"]) -> tuple[Placement, int]:
        """Where a batch's examples lie, on all hosts together, and its rows."""
        plan = self.plan
        if not plan.packed:
            return packing.one_per_row(examples.shape[1]), plan.rows
        placement = packing.place(self._questions.lengths(examples), plan.row_lengths, plan.rows)
        rows = max(plan.rows, round_up(placement.rows, plan.multiple_of))
        if rows > plan.rows and self._host[0] == 0:
            _log.warning(
                "step %d: this batch takes %d rows instead of %d (compiles once more)",
                step,
                rows,
                plan.rows,
            )
        return placement, rows


def iterate(
    batches: Batches, start_step: int = 0, stop_step: int | None = None, prefetch: int = 2
) -> Iterator[tuple[int, Batch]]:
    """(step, batch) of steps [start_step, stop_step), in order.

    Args:
        prefetch: batches made ahead in a thread, which ends with the iteration; 0 makes each when
            it is asked for.
    """
    import grain  # half a second to import; only a training run needs it

    steps = range(start_step, len(batches) if stop_step is None else stop_step)
    options = grain.ReadOptions(num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch)
    source = grain.MapDataset.source(batches)[steps.start : steps.stop]
    iterator = iter(source.to_iter_dataset(options))
    try:
        yield from zip(steps, iterator, strict=True)
    finally:
        iterator.close()


def eval_batches(
    table: Table, rows: Int[np.ndarray, " rows"], batch_size: int, width_multiple: int = 16
) -> Iterator[tuple[Int[np.ndarray, " batch"], Shaped[np.ndarray, "batch width"]]]:
    """Every row's input once, longest first, in batches of one height and few widths.

    Yields:
        (places, encoder_input_tokens): `places` index `rows`, -1 on the empty rows that fill the
        last batch; the tokens are int32 [batch_size, width], 0 on padding, the width rounded up
        to `width_multiple`.
    """
    rows = np.asarray(rows, np.int64)
    lengths = np.asarray(table.input_lengths)[rows]
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        places = np.full(batch_size, -1, np.int64)
        places[: len(members)] = members
        width = round_up(max(int(lengths[members[0]]), 1), width_multiple)
        tokens = np.zeros((batch_size, width), np.int32)
        for line, row in enumerate(rows[members].tolist()):
            inputs = table.inputs(row)
            tokens[line, : len(inputs)] = inputs
        yield places, tokens
