"""The registry of datasets, with the tasks and mixtures of each.

`add_dataset` is the one call a new dataset needs. A dataset D gives the tasks and mixtures
D_VIEW and D_METHOD for every name in `methods`. Whoever must know each dataset, as
`integrations.seqio_tasks` does, subscribes with `subscribe`.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from sbs_jax.datasets import sources, splits
from sbs_jax.datasets.methods import METHODS, VIEWS, Method, View, whole_output
from sbs_jax.datasets.records import Record
from sbs_jax.datasets.sources import Source
from sbs_jax.datasets.splits import SPLITS, TEST, TRAIN, VALIDATION
from sbs_jax.errors import UserError, nearest
from sbs_jax.metrics import extra
from sbs_jax.metrics.accuracy import METRICS, Metric, Score
from sbs_jax.metrics.extra import MetricFn
from sbs_jax.utils import buckets, paths

Subsample = Callable[[int, float, int], np.ndarray]
SplitBy = Literal["question", "row"]

# The original carves its validation rows with this seed, whatever the run.
_CARVE_SEED = 0


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One dataset: its files, its metric, and the rows of each split.

    Attributes:
        source: of the records of each split.
        metric: "text", "equation", or a function (prediction, gold) -> a bool, or a number from
            0 to 1 that is averaged.
        metric_fns: further metrics, SeqIO's functions (targets, predictions) -> {name: value}.
        carve_validation: share of the training rows that becomes the validation split; None
            with a validation file.
        subsample: (n, fraction, run) -> which of n questions, or rows, of the training file are
            kept (see `splits`).
        split_by: "question": rows with equal inputs are subsampled and carved together; "row":
            each alone, the original's rule.
        vocabulary: default spec for `vocabularies.load`.
        augmentation: training records that follow this dataset's own; they are neither
            subsampled nor in the validation split.
    """

    name: str
    source: Source
    metric: Metric = "text"
    metric_fns: tuple[MetricFn, ...] = ()
    carve_validation: float | None = None
    subsample: Subsample = splits.subsample_rows
    split_by: SplitBy = "question"
    description: str = ""
    vocabulary: str = "t5"
    augmentation: Source | None = None

    def read(self, file_split: str) -> Iterator[Record]:
        """Streams a file's records in order. Raises UserError where data are missing or broken."""
        yield from self.source.read(file_split)
        if file_split == TRAIN and self.augmentation:
            yield from self.augmentation.read(TRAIN)

    def count(self, file_split: str) -> int:
        """How many records `read` gives; UserError for none."""
        own = self.source.count(file_split)
        if not own:
            raise UserError(f"{self.name}/{file_split}: the split is empty; prepare it again")
        if file_split == TRAIN and self.augmentation:
            own += self.augmentation.count(TRAIN)
        return own

    def fingerprint(self, file_split: str) -> str:
        """Changes when any record of the file does."""
        own = self.source.fingerprint(file_split)
        if file_split == TRAIN and self.augmentation:
            return f"{own}+{self.augmentation.fingerprint(TRAIN)}"
        return own

    def rows(self, split: str, fraction: float = 1.0, run: int = 0) -> tuple[str, np.ndarray]:
        """Which rows of which file make up a split.

        As the original: a fraction of the training file is drawn first (seed: run), then the
        validation rows are carved from what was drawn. Fraction and run of a validation split
        must therefore be those of the training split it goes with. Rows with equal inputs are
        drawn and carved together, unless the dataset splits by row; without repeats both rules
        give the same rows.

        Returns:
            (name of the file's split, int64 row numbers)
        """
        if split not in SPLITS:
            raise UserError(f"{split}: no such split; use {', '.join(SPLITS)}")
        if split == TEST or (split == VALIDATION and self.carve_validation is None):
            return split, np.arange(self.count(split))
        total = self.count(TRAIN)
        own = self.source.count(TRAIN)
        drawn = fraction != 1 or self.carve_validation is not None
        together = drawn and self.split_by == "question"
        question_of = self._question_of() if together else np.arange(own)
        questions = self.subsample(int(question_of.max()) + 1, fraction, run)
        if self.carve_validation is not None:
            train, validation = splits.train_test_rows(
                len(questions), self.carve_validation, _CARVE_SEED
            )
            if split == VALIDATION:
                return TRAIN, splits.rows_of(question_of, questions[validation])
            questions = questions[train]
        rows = splits.rows_of(question_of, questions)
        return TRAIN, np.concatenate([rows, np.arange(own, total)])

    def _question_of(self) -> np.ndarray:
        """The number of each row's question in the training file: int64 [rows]."""
        key = (self.name, self.source.fingerprint(TRAIN))
        if key not in _questions:
            _questions[key] = splits.question_numbers(
                record.input for record in self.source.read(TRAIN)
            )
        return _questions[key]

    def teacher_hint(self) -> str:
        """Where teacher outputs come from, for errors."""
        return self.source.teacher_hint()

    def task_names(self) -> list[str]:
        """D_VIEW for every view."""
        return [f"{self.name}_{view}" for view in VIEWS]

    def mixture_names(self) -> list[str]:
        """D_METHOD for every method: what one trains on."""
        return [f"{self.name}_{method}" for method in METHODS]

    def all_names(self) -> set[str]:
        """Those of tasks and mixtures."""
        return {*self.task_names(), *self.mixture_names()}


@dataclasses.dataclass(frozen=True)
class Selection:
    """A task or mixture by name: the dataset, and how it is trained on and scored.

    Attributes:
        views: trained on; a question brings its row of each.
        method: also says how answers are decoded and read.
    """

    name: str
    dataset: Dataset
    method: Method

    @property
    def views(self) -> tuple[View, ...]:
        return tuple(VIEWS[name] for name in self.method.views)

    @property
    def eval_view(self) -> View:
        return VIEWS[self.method.eval_view]


_questions: dict[tuple[str, str], np.ndarray] = {}  # (dataset, fingerprint) -> `_question_of`

_registry: dict[str, Dataset] = {}
_listeners: list[Callable[[Dataset], None]] = []
_metric_sources: list[Callable[[str], Iterable[MetricFn]]] = []


def add_dataset(
    name: str,
    *,
    records: sources.Read | str | os.PathLike[str] | None = None,
    source: Any = None,
    format: Callable[[Any], Record] | None = None,
    prepare_command: str | None = None,
    annotations: str | None = None,
    metric: str | Callable[[str, str], Score] = "text",
    metric_fns: Iterable[MetricFn] = (),
    carve_validation: float | None = None,
    subsample: Subsample = splits.subsample_rows,
    split_by: str = "question",
    augment_with: str | None = None,
    description: str = "",
    vocabulary: str = "t5",
) -> Dataset:
    """Registers a dataset with all its tasks and mixtures.

    Args:
        name: letters, digits and underscores.
        records: a folder of train.jsonl, validation.jsonl and test.jsonl, or a function from
            split name to Records. With neither this nor `source`, DATA_DIR/name is read.
        source, format: a seqio.DataSource, and what makes a Record of one of its examples (a
            dict of numpy values).
        prepare_command: command that creates DATA_DIR/name; shown when the files are missing.
        annotations: name of a JSONL in the same folder: teacher outputs (id, rationale, label).
        metric: "text" (same string), "equation" (same value), or a function (prediction, gold)
            that returns a bool, or a number from 0 to 1 that is averaged.
        metric_fns: further metrics, reported with accuracy: SeqIO's functions
            (targets, predictions) -> {name: value}.
        carve_validation: e.g. 0.1: that share of the training rows is the validation split.
        subsample: which training questions (or rows) a data fraction keeps.
        split_by: "question" keeps rows with equal inputs together when a data fraction is drawn
            or validation is carved; "row" draws each alone, as the original does.
        augment_with: name of a dataset whose annotated training records are added to this one's.
        vocabulary: default for `sbs tasks` and for SeqIO.

    Raises:
        UserError: a name that is taken, gives a task of another dataset's name or is not a name, or
            arguments that exclude each other.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise UserError(f"add_dataset({name!r}): use letters, digits and underscores")
    if name in _registry:
        raise UserError(f"add_dataset({name!r}): the name is taken; choose another")
    if not callable(metric) and metric not in METRICS:
        raise UserError(
            f"add_dataset({name!r}): metric {metric!r} is neither a function nor one of "
            f"{', '.join(METRICS)}"
        )
    dataset = Dataset(
        name=name,
        source=_source(name, records, source, format, prepare_command, annotations),
        metric=cast(Metric, metric),
        metric_fns=extra.checked(metric_fns, f"add_dataset({name!r}): metric_fns"),
        carve_validation=carve_validation,
        subsample=subsample,
        split_by=_checked_split_by(name, split_by),
        description=description,
        vocabulary=vocabulary,
        augmentation=_annotated(get(augment_with)) if augment_with else None,
    )
    _refuse_shared_names(dataset)
    _registry[name] = dataset
    for listener in _listeners:
        listener(dataset)
    return dataset


def remove(name: str) -> None:
    """Forgets a dataset; SeqIO's tasks of it stay until one of that name is added."""
    del _registry[name]


def _checked_split_by(name: str, split_by: str) -> SplitBy:
    if split_by not in get_args(SplitBy):
        raise UserError(f"add_dataset({name!r}): split_by is {split_by!r}; use question or row")
    return cast(SplitBy, split_by)


def _refuse_shared_names(dataset: Dataset) -> None:
    """Raises UserError where another dataset has a task of the same name: foo and foo_llm do."""
    for other in _registry.values():
        shared = sorted(dataset.all_names() & other.all_names())
        if shared:
            raise UserError(
                f"add_dataset({dataset.name!r}): {shared[0]} is a task of {other.name} too; choose "
                "another name"
            )


def subscribe(listener: Callable[[Dataset], None]) -> None:
    """Calls `listener` with every dataset registered so far, and with each one added later."""
    for dataset in _registry.values():
        listener(dataset)
    _listeners.append(listener)


def _source(
    name: str,
    records: sources.Read | str | os.PathLike[str] | None,
    source: Any,
    format: Callable[[Any], Record] | None,
    prepare_command: str | None,
    annotations: str | None,
) -> Source:
    if (source is None) != (format is None) or (source is not None and records is not None):
        raise UserError(f"add_dataset({name!r}): give records, or source together with format")
    if source is not None:
        return sources.from_seqio(name, source, cast(Callable[[Any], Record], format))
    if callable(records):
        return sources.Function(name, records)
    hint = f"run: {prepare_command} --data_dir {{root}}" if prepare_command else "put it there"
    if records is None:
        return sources.JsonlFolder(name, lambda: _data_folder() / name, hint, annotations)
    try:
        address = paths.expand(records)
        buckets.require(address, "records")
    except UserError as error:
        raise UserError(f"add_dataset({name!r}): {error}") from None
    folder = buckets.place(address)
    return sources.JsonlFolder(name, lambda: folder, hint, annotations)


def _data_folder() -> Path:
    address = paths.data_address()
    buckets.require(address, "--data_dir")
    return buckets.place(address)


def _annotated(dataset: Dataset) -> Source:
    """The records that a teacher has answered, under ids no other dataset has."""

    def read(split: str) -> Iterator[Record]:
        count = 0
        for record in dataset.read(split):
            if record.rationale is not None or record.llm_label is not None:
                count += 1
                yield dataclasses.replace(record, id=f"{dataset.name}/{record.id}")
        if not count:
            raise UserError(
                f"{dataset.name}/{split}: no record has a teacher's output; "
                f"{dataset.teacher_hint()}"
            )

    return sources.Function(dataset.name, read)


def add_metric_source(source: Callable[[str], Iterable[MetricFn]]) -> None:
    """Adds a source of metrics: a function of the task's name."""
    _metric_sources.append(source)


def metric_fns(selection: Selection) -> tuple[MetricFn, ...]:
    """The further metrics of a selection: the dataset's, and those of `add_metric_source`."""
    tasks = dict.fromkeys((selection.method.eval_view, *selection.method.views))
    kept = [
        function
        for view in tasks
        if view != "rationale"
        for source in _metric_sources
        for function in source(f"{selection.dataset.name}_{view}")
    ]
    return tuple(dict.fromkeys((*selection.dataset.metric_fns, *kept)))


def names() -> list[str]:
    """The registered datasets, in the order they were added."""
    return list(_registry)


def get(name: str) -> Dataset:
    """Raises UserError for an unknown dataset, with the nearest known name."""
    if name not in _registry:
        raise UserError(
            f"{name}: no such dataset{nearest(name, _registry)}; `sbs tasks` lists them"
        )
    return _registry[name]


def resolve(name: str) -> Selection:
    """The task or mixture called `name`, e.g. ``cqa_step_by_step`` or ``cqa_rationale``.

    Raises:
        UserError: unknown, with the nearest known name.
    """
    for dataset in _registry.values():
        kind = name.removeprefix(f"{dataset.name}_")
        if kind != name and kind in METHODS:
            return Selection(name, dataset, METHODS[kind])
        if kind != name and kind in VIEWS:
            return Selection(name, dataset, _only(VIEWS[kind]))
    if name in _registry:
        names = ", ".join(_registry[name].mixture_names())
        raise UserError(f"{name}: a dataset, not a task or mixture; train on one of {names}")
    known = set().union(*(dataset.all_names() for dataset in _registry.values()))
    raise UserError(
        f"{name}: no such task or mixture{nearest(name, known)}; `sbs tasks` lists them, and "
        "sbs_jax.integrations.plain_tasks.add takes in SeqIO's"
    )


def method_of(name: str) -> Method:
    """The method of a task or mixture whose dataset need not be registered, by the name's end.

    Raises UserError for a name that ends like no task or mixture.
    """
    kinds = sorted({*METHODS, *VIEWS}, key=len, reverse=True)  # llm_label before label
    for kind in kinds:
        if name.endswith(f"_{kind}"):
            return METHODS[kind] if kind in METHODS else _only(VIEWS[kind])
    raise UserError(f"{name}: no name of a task or mixture: DATASET_{'|'.join(METHODS)}")


def _only(view: View) -> Method:
    """Training on one view of a mixture alone: the limits alpha = 1 and alpha = 0."""
    explains = view.name == "rationale"
    return Method(
        name=view.name,
        views=(view.name,),
        eval_view="label",
        rationale_view="rationale" if explains else None,
        answer=whole_output,
        description=f"the {view.name} task of step_by_step alone",
    )
