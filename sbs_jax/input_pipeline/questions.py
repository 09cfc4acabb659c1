"""The questions of a run, the sequences that each brings to a batch, and what packing places.

What is placed is a sequence: an input and its target. With a shared encoder it is a question: one
input and all its targets, one after another in the decoder.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import draws
from sbs_jax.input_pipeline.packing import Lengths, RowLengths


@runtime_checkable
class Table(Protocol):
    """Token ids of one view of a file's records, one row per record (`token_cache.TokenTable`).

    A record without a target in this view has target length 0.
    """

    n: int
    ids: Sequence[str]
    input_lengths: Int[np.ndarray, " n"]
    target_lengths: Int[np.ndarray, " n"]

    def inputs(self, row: int) -> Int[np.ndarray, " length"]: ...

    def targets(self, row: int) -> Int[np.ndarray, " length"]: ...


class Members(NamedTuple):
    """Questions of the stream, each with the epoch it is in."""

    question: Int[np.ndarray, " questions"]
    epoch: Int[np.ndarray, " questions"]


class Examples(NamedTuple):
    """Sequences of a batch: the view each is of, the number of its question, and what is placed.

    Attributes:
        source: the number, in the batch, of the placed input that the sequence reads.
    """

    view: Int[np.ndarray, " examples"]
    question: Int[np.ndarray, " examples"]
    source: Int[np.ndarray, " examples"]


class TrainingQuestions:
    """The selected records that have a target in at least one view, with their token counts.

    Several tables of one task are alternatives, as several rationales of a question are.

    Attributes:
        indices: their records in the tables, in file or selection order.
        input_lengths, target_lengths: int32 [views, questions]; 0 where a view has no target.
        most_brought: the most sequences that a question brings.
        shared_encoder: the sequences of a question read one encoding of it.
    """

    def __init__(
        self,
        tables: Sequence[tuple[int, Table]],
        indices: Int[np.ndarray, " records"],
        draw_seed: int | None = None,
        shared_encoder: bool = False,
    ) -> None:
        """Args: draw_seed: of alternatives one is drawn per epoch; None: a question brings all."""
        self.shared_encoder = shared_encoder
        self.tables = tuple(tables)
        indices = np.asarray(indices, np.int64)
        targets = np.stack([np.asarray(t.target_lengths, np.int32)[indices] for _, t in tables])
        inputs = np.stack([np.asarray(t.input_lengths, np.int32)[indices] for _, t in tables])
        useful = np.any(targets > 0, axis=0)
        if not useful.any():
            raise UserError(
                f"training data: none of the {len(indices)} selected examples has a target; check "
                "the split, the data fraction and that the file has labels and rationales"
            )
        self.indices = indices[useful]
        self.target_lengths = targets[:, useful]
        self.input_lengths = np.where(self.target_lengths > 0, inputs[:, useful], 0)
        tasks = np.array([task for task, _ in tables])
        groups = [np.flatnonzero(tasks == task) for task in dict.fromkeys(tasks.tolist())]
        # The views of which a question brings one sequence each.
        self._choices = [np.array([view]) for view in range(len(tables))]
        self._choices = self._choices if draw_seed is None else groups
        self.most_brought = len(self._choices)
        self._seed = draw_seed
        self._alternatives = [views for views in self._choices if len(views) > 1]

    @property
    def most_placed(self) -> int:
        """The most that packing places of one question."""
        return 1 if self.shared_encoder else self.most_brought

    @functools.cached_property
    def _all_tokens(self) -> np.ndarray:
        return self._tokens(self.input_lengths, self.target_lengths)

    def _tokens(self, inputs: np.ndarray, targets: np.ndarray) -> Int[np.ndarray, "2 questions"]:
        """Sums over views; a shared input counts once."""
        read = inputs.max(axis=0) if self.shared_encoder else inputs.sum(axis=0)
        return np.stack([read, targets.sum(axis=0)])

    @functools.cached_property
    def _longest_placed(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets, [views, questions] or, where a question is placed whole, [1, ...]."""
        if not self.shared_encoder:
            return self.input_lengths, self.target_lengths
        chosen = [self.target_lengths[views].max(axis=0) for views in self._choices]
        return self.input_lengths.max(axis=0)[None], np.sum(chosen, axis=0)[None]

    @functools.cached_property
    def _keys(self) -> np.ndarray:
        ids = self.tables[0][1].ids
        return draws.keys(ids[i] for i in self.indices.tolist())

    def brought(self, members: Members) -> Bool[np.ndarray, "views questions"]:
        """The sequences that each of these questions brings in its epoch."""
        question, epoch = members
        present = self.target_lengths[:, question] > 0
        for group in self._alternatives:
            there = present[group]
            number = draws.draw(self._keys[question], self._seed or 0, epoch, there.sum(axis=0))
            present[group] = there & (np.cumsum(there, axis=0) - 1 == number)
        return present

    def tokens(self, members: Members) -> Int[np.ndarray, "2 questions"]:
        """Input and target tokens that each of these questions brings."""
        question, sides = members.question, (self.input_lengths, self.target_lengths)
        if not self._alternatives:
            return self._all_tokens[:, question]
        brought = self.brought(members)
        return self._tokens(*(np.where(brought, side[:, question], 0) for side in sides))

    def __len__(self) -> int:
        return len(self.indices)

    def longest(self) -> RowLengths:
        """The longest input and the longest target of whatever is placed."""
        inputs, targets = self._longest_placed
        return RowLengths(int(inputs.max()), int(targets.max()))

    def most_in(self, row_lengths: RowLengths) -> int:
        """How many of the shortest sequences would fit one row."""
        present = self.target_lengths > 0
        by_input = row_lengths.inputs // int(self.input_lengths[present].min())
        by_input *= self.most_brought // self.most_placed
        by_target = row_lengths.targets // int(self.target_lengths[present].min())
        return max(1, min(by_input, by_target))

    def examples(self, members: Members) -> Examples:
        """Every sequence of these questions, the views of one question side by side."""
        place, view = np.nonzero(self.brought(members).T)
        # Every question brings something, so places have no gaps.
        source = place if self.shared_encoder else np.arange(len(place))
        return Examples(view, members.question[place], source)

    def lengths(self, examples: Examples) -> Lengths:
        """Of everything that packing places."""
        view, question, source = examples
        inputs = self.input_lengths[view, question].astype(np.int64)
        targets = self.target_lengths[view, question].astype(np.int64)
        if not self.shared_encoder:
            return Lengths(inputs, targets)
        first = np.flatnonzero(np.diff(source, prepend=-1))
        return Lengths(inputs[first], np.add.reduceat(targets, first))

    def check_fit(self, row_lengths: RowLengths) -> None:
        """Raises UserError naming the first record that does not fit a row."""
        names = ("input", "joint target" if self.shared_encoder else "target")
        for name, lengths, room in zip(names, self._longest_placed, row_lengths, strict=True):
            view, question = np.unravel_index(int(np.argmax(lengths > room)), lengths.shape)
            if lengths[view, question] > room:
                record = self.tables[view][1].ids[int(self.indices[question])]
                raise UserError(
                    f"row lengths: the {name} of record {record!r} has {lengths[view, question]} "
                    f"tokens, a row holds {room}; use longer rows or a smaller TASK_FEATURE_LENGTHS"
                )
