"""Token tables and a step in, one model batch out; and batches made ahead in a thread."""

import collections
import concurrent.futures
import copy
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import packing
from sbs_jax.input_pipeline.batch_plan import PlanSpec, make_plan, members
from sbs_jax.input_pipeline.packing import Batch, BatchShape, Group, Placement, round_up
from sbs_jax.input_pipeline.questions import Examples, Members, Table, TrainingQuestions

_log = logging.getLogger(__name__)

# Steps whose batches are placed in one go: as fast for eight of them as for one.
_BLOCK = 8


class Batches:
    """The batches of a run by step: ``batches[t]``, for t from 0 to len(batches) - 1.

    A batch has one of the few shapes of the plan, the cheapest that holds it, so the train step
    compiles once per shape. Should a batch fit none (the plan packs a sample and the heaviest), it
    gets more rows, which is logged and costs one more compilation; no question is ever dropped.

    Args:
        tables: (task id, token table) of each view trained on; the same records in each. Several of
            one task are alternatives (`PlanSpec.draw`).
        indices: the selected records (a split, a fraction of it).
        spec: see `batch_plan.PlanSpec`.

    Raises:
        UserError: nothing selected, or a sequence longer than the given row lengths.
    """

    def __init__(
        self,
        tables: Sequence[tuple[int, Table]],
        indices: Int[np.ndarray, " records"],
        spec: PlanSpec,
    ) -> None:
        draw_seed = spec.seed if spec.draw else None
        self._questions = TrainingQuestions(tables, indices, draw_seed, spec.shared_encoder)
        self._task_ids = np.array([task_id for task_id, _ in tables])
        self._host = (0, 1)
        self._block = functools.lru_cache(maxsize=4)(self._place_block)
        self.plan = make_plan(self._questions, spec)

    def shard(self, index: int, count: int) -> "Batches":
        """The same batches, of which only the rows of block `index` of `count` are made.

        Raises UserError where the plan's rows do not divide evenly.
        """
        multiple = self.plan.spec.multiple_of
        if multiple % count:
            raise UserError(
                f"batch: rows are a multiple of {multiple}, which {count} "
                "hosts do not divide evenly; use a mesh whose data shards are a multiple of them"
            )
        mine = copy.copy(self)
        mine._host = (index, count)
        mine._block = functools.lru_cache(maxsize=4)(mine._place_block)
        return mine

    @property
    def questions(self) -> int:
        """How many different ones the batches hold, on all hosts together."""
        return len(self._questions)

    def __len__(self) -> int:
        return self.plan.spec.steps

    def __getitem__(self, step: int) -> Batch:
        """The model batch of a step: int32 [rows, row length] by name, see `packing.fill`."""
        examples, placement, shape = self._placed(step)
        index, count = self._host
        first, last = shape.rows * index // count, shape.rows * (index + 1) // count
        here = (placement.row >= first) & (placement.row < last)
        mine = here[examples.source]
        view, question, source = (each[mine] for each in examples)
        record = self._questions.indices[question].tolist()
        tables = [self._questions.tables[v][1] for v in view.tolist()]
        sequences = list(zip(tables, record, strict=True))
        placed, read_by, source = np.unique(source, return_index=True, return_inverse=True)
        return packing.fill(
            [table.inputs(r) for table, r in map(sequences.__getitem__, read_by.tolist())],
            [table.targets(r) for table, r in sequences],
            self._task_ids[view],
            Placement(placement.row[placed] - first, placement.segment[placed], last - first),
            shape.row_lengths,
            last - first,
            source if self._questions.shared_encoder else None,
        )

    def shape(self, step: int) -> BatchShape:
        """The shape of a step's batch, on all hosts together."""
        return self._placed(step)[2]

    def ids(self, step: int) -> list[str]:
        """Record ids of a step's questions, in stream order."""
        ids = self._questions.tables[0][1].ids
        return [str(ids[i]) for i in self._questions.indices[self._members(step).question].tolist()]

    def _members(self, step: int) -> Members:
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of a run of {len(self)}")
        size = self.plan.spec.batch_size
        return members(len(self._questions), self.plan.spec.seed, step * size, (step + 1) * size)

    def _placed(self, step: int) -> tuple[Examples, Placement, BatchShape]:
        """A batch's examples, where they lie, on all hosts together, and its shape."""
        if not self.plan.spec.pack:
            examples = self._questions.examples(self._members(step))
            count = len(self._questions.lengths(examples).inputs)
            return examples, packing.one_per_row(count), self.plan.largest
        return self._block(step // _BLOCK)[step % _BLOCK]

    def _place_block(self, block: int) -> list[tuple[Examples, Placement, BatchShape]]:
        """The packed batches of steps [block * _BLOCK, (block + 1) * _BLOCK)."""
        steps = range(block * _BLOCK, min((block + 1) * _BLOCK, len(self)))
        if not steps:
            raise IndexError(f"step {steps.start} of a run of {len(self)}")
        examples = [self._questions.examples(self._members(step)) for step in steps]
        lengths = [self._questions.lengths(each) for each in examples]
        group = Group.of(lengths)
        placed: list[tuple[Placement, BatchShape] | None] = [None] * len(steps)
        for shape in self.plan.shapes:
            left = np.array([i for i, done in enumerate(placed) if done is None], np.int64)
            placements = packing.place_all(group.take(left), shape)
            for line in np.flatnonzero(placements.fits).tolist():
                at = int(left[line])
                size = len(lengths[at].inputs)
                row, segment = (a[line, :size] for a in (placements.row, placements.segment))
                placed[at] = Placement(row, segment, shape.rows), shape
        return [
            (each, *(done or self._grown(step, size)))
            for step, each, size, done in zip(steps, examples, lengths, placed, strict=True)
        ]

    def _grown(self, step: int, lengths: packing.Lengths) -> tuple[Placement, BatchShape]:
        """A batch that fits no shape, in the last one with more rows."""
        largest = self.plan.largest
        placement = packing.place(lengths, largest.row_lengths, largest.rows)
        rows = round_up(placement.rows, self.plan.spec.multiple_of)
        if self._host[0] == 0:
            _log.warning(
                "step %d: this batch takes %d rows instead of %d (compiles once more)",
                step,
                rows,
                largest.rows,
            )
        return placement, largest._replace(rows=rows)


class Prefetch(Iterator[tuple[int, Any]]):
    """(step, item) in order, each made in a thread while earlier ones are used.

    Close it (or use it as a context) to end the thread early. A mistake in `make` is raised by the
    step that made it.

    Args:
        make: called with a step, by one thread at a time.
        ahead: items made before they are needed; 0 makes each on demand.

    Attributes:
        waited: seconds the consumer has waited for items.
    """

    def __init__(self, make: Callable[[int], Any], steps: range, ahead: int) -> None:
        self.waited = 0.0
        self._make = make
        self._steps = iter(steps)
        self._ahead = ahead
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "batches")
        self._pending: collections.deque = collections.deque()
        self._submit(ahead)

    def _submit(self, count: int) -> None:
        for step in itertools.islice(self._steps, count):
            self._pending.append((step, self._pool.submit(self._make, step)))

    def __next__(self) -> tuple[int, Any]:
        if not self._ahead:
            step = next(self._steps)
            return step, self._make(step)
        if not self._pending:
            self.close()
            raise StopIteration
        step, future = self._pending.popleft()
        start = time.monotonic()
        item = future.result()
        self.waited += time.monotonic() - start
        self._submit(1)
        return step, item

    def close(self) -> None:
        """Ends the thread; the item it is making is finished and dropped."""
        self._pending.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def iterate(
    batches: Batches,
    start_step: int = 0,
    stop_step: int | None = None,
    prefetch: int = 2,
    put: Callable[[Batch], Any] | None = None,
) -> Prefetch:
    """(step, batch) of steps [start_step, stop_step), in order.

    Args:
        prefetch: batches made ahead in a thread; 0 makes each on demand.
        put: applied to every batch in the same thread, e.g. `Partitioner.put_batch`.
    """
    steps = range(start_step, len(batches) if stop_step is None else stop_step)
    make = batches.__getitem__
    return Prefetch(make if put is None else lambda step: put(make(step)), steps, prefetch)


def eval_batches(
    table: Table,
    indices: Int[np.ndarray, " records"],
    batch_size: int,
    part_size: int,
    width_multiple: int,
) -> Iterator[tuple[Int[np.ndarray, " batch"], list[Int[np.ndarray, "part width"]]]]:
    """Every record's input once, longest first, in batches of one height and few widths.

    Yields:
        (places, parts): `places` index `indices`, -1 on the empty rows that fill the last batch.
        The parts are the batch's encoder_input_tokens, `part_size` rows at a time, 0 on padding,
        each as wide as its longest input, rounded up to `width_multiple`.
    """
    indices = np.asarray(indices, np.int64)
    lengths = np.asarray(table.input_lengths)[indices]
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        members = order[start : start + batch_size]
        places = np.full(batch_size, -1, np.int64)
        places[: len(members)] = members
        parts = []
        for first in range(0, batch_size, part_size):
            longest = lengths[members[min(first, len(members) - 1)]]  # of empty rows: the last
            width = round_up(max(int(longest), 1), width_multiple)
            tokens = np.zeros((min(part_size, batch_size - first), width), np.int32)
            for line, index in enumerate(indices[members[first : first + part_size]].tolist()):
                inputs = table.inputs(index)
                tokens[line, : len(inputs)] = inputs
            parts.append(tokens)
        yield places, parts
