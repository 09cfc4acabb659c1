"""A user's own SeqIO tasks and mixtures, distilled step by step in both engines.

    import my_tasks  # seqio.TaskRegistry.add("plums", ...)
    from sbs_jax.integrations import plain_tasks

    plain_tasks.add("plums", rationale="why")

registers a dataset of that name, with the tasks and mixtures of every dataset: `plums_label` and
its twin `plums_rationale`, `plums_step_by_step` and so on, with task ids where an engine needs
them.

A task is read after its own preprocessors: its texts are what its tokenizer keeps as
``inputs_pretokenized`` and ``targets_pretokenized``. Metric functions of (targets, predictions)
are kept, and get what the task's own `postprocess_fn` makes of the texts; where several tasks of a
mixture have the same function, the first one's is used for all.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from sbs_jax.datasets import registry
from sbs_jax.datasets.records import Record
from sbs_jax.datasets.registry import Dataset
from sbs_jax.datasets.splits import TRAIN
from sbs_jax.errors import UserError
from sbs_jax.integrations import seqio_tasks  # noqa: F401 - registers the twins in SeqIO
from sbs_jax.metrics.accuracy import metric_name
from sbs_jax.metrics.extra import MetricFn, takes_predictions

# Name of a feature of the task's examples, or a function of an example (numpy values, bytes).
Field = str | Callable[[Mapping[str, Any]], str | None] | None

_TEXTS = ("inputs_pretokenized", "targets_pretokenized")
_SEED = 0
_MOST_COPIES = 100.0  # of an example in one epoch


def add(
    name: str,
    *,
    rationale: Field = None,
    teacher_label: Field = None,
    id: Field = None,
    splits: Mapping[str, str] | None = None,
    **more: Any,
) -> Dataset:
    """Registers the dataset of a SeqIO task or mixture.

    In a mixture, an epoch holds every training example of the task that is rarest for its rate once
    and those of the others as many times as the rates say; validation and test hold each once.

    Args:
        name: of a task or mixture in SeqIO's registries; becomes the dataset's.
        rationale, teacher_label, id: where an example has them; without `id` it is its number.
        splits: our name of a split -> the task's, e.g. ``{"test": "validation"}``.
        more: for `registry.add_dataset`, e.g. ``carve_validation=0.1`` or ``vocabulary``.

    Raises:
        UserError: SeqIO has no such task or mixture, or the dataset's name is taken.
    """
    try:
        provider = seqio.get_mixture_or_task(name)
    except ValueError:
        raise UserError(f"plain_tasks.add({name!r}): SeqIO has no such task or mixture") from None
    tasks = getattr(provider, "tasks", None) or [provider]
    reader = _Reader(name, tuple(tasks), (rationale, teacher_label, id), dict(splits or {}))
    rates = [float(provider.get_rate(task)) for task in tasks] if len(tasks) > 1 else [1.0]
    kept = {f: m for task in reversed(tasks) for f, m in _metric_fns(task).items()}
    return registry.add_dataset(
        name,
        records=functools.partial(_records, reader, rates),
        metric_fns=[*kept.values(), *more.pop("metric_fns", ())],
        **more,
    )


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Records of single tasks."""

    name: str
    tasks: tuple[seqio.Task, ...]
    fields: tuple[Field, Field, Field]
    splits: Mapping[str, str]

    def read(self, task: seqio.Task, split: str) -> Iterator[Record]:
        """The records of a task's split, in its unshuffled order."""
        theirs = self.splits.get(split, split)
        if theirs not in task.splits:
            raise UserError(
                f"{self.name}/{split}: SeqIO's task {task.name} has no split {theirs!r}, only "
                f"{', '.join(task.splits)}; give plain_tasks.add(splits=...) or carve_validation"
            )
        examples = task.get_dataset(None, theirs, shuffle=False, num_epochs=1)
        for number, example in enumerate(examples.as_numpy_iterator()):
            yield self._record(task, number, example)

    def _record(self, task: seqio.Task, number: int, example: Mapping[str, Any]) -> Record:
        where = f"{task.name}: example {number}"
        if missing := [text for text in _TEXTS if text not in example]:
            raise UserError(
                f"{where}: has no {missing[0]}; let seqio.preprocessors.tokenize keep it "
                "(copy_pretokenized=True)"
            )
        rationale, teacher_label, id = (_value(field, example, where) for field in self.fields)
        inputs, targets = (_text(example[text]) for text in _TEXTS)
        own = str(number) if id is None else id
        single = len(self.tasks) == 1
        return Record(
            own if single else f"{task.name}/{own}", inputs, targets, rationale, teacher_label
        )


def _value(field: Field, example: Mapping[str, Any], where: str) -> str | None:
    if field is None:
        return None
    if callable(field):
        return field(example)
    if field not in example:
        raise UserError(f"{where}: has no feature {field!r}; it has {', '.join(sorted(example))}")
    return _text(example[field])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _records(reader: _Reader, rates: Sequence[float], split: str) -> Iterator[Record]:
    """All tasks' records one after the other; in training as often as the rates say."""
    if split != TRAIN or len(reader.tasks) == 1:
        for task in reader.tasks:
            yield from reader.read(task, split)
        return
    sizes = [sum(1 for _ in reader.read(task, split)) for task in reader.tasks]
    for task, size, copies in zip(
        reader.tasks, sizes, _copies(reader.name, sizes, rates), strict=True
    ):
        times = _times(size, copies)
        for row, record in enumerate(reader.read(task, split)):
            for copy in range(times[row]):
                suffix = f"#{copy}" if copy else ""
                yield dataclasses.replace(record, id=f"{record.id}{suffix}")


def _copies(name: str, sizes: Sequence[int], rates: Sequence[float]) -> list[float]:
    """How many times an epoch holds an example of each task: at least once.

    Raises:
        UserError: a rate is not positive, or some example would be repeated more than 100 times.
    """
    if min(rates) <= 0 or min(sizes) == 0:
        raise UserError(f"mixture {name}: every task needs examples and a rate above 0")
    epoch = max(size / rate for size, rate in zip(sizes, rates, strict=True))
    copies = [rate * epoch / size for size, rate in zip(sizes, rates, strict=True)]
    if max(copies) > _MOST_COPIES:
        raise UserError(
            f"mixture {name}: its rates repeat an example {max(copies):.0f} times while another is "
            f"seen once; keep rates and sizes within a factor of {_MOST_COPIES:.0f}"
        )
    return copies


def _times(size: int, copies: float) -> list[int]:
    """Whole copies of every row, and the fractional rest on rows drawn with a fixed seed."""
    whole = math.floor(copies)
    extra = round((copies - whole) * size)
    times = np.full(size, whole)
    times[np.random.default_rng(_SEED).permutation(size)[:extra]] += 1
    return times.tolist()


def _metric_fns(task: seqio.Task) -> dict[MetricFn, MetricFn]:
    """The task's metric functions; those of predictions on what its postprocessor makes of texts.

    Those of model scores stay as they are: our engine names them and leaves them out.
    """
    return {
        function: _PostprocessedMetric(function, task.postprocess_fn)
        if takes_predictions(function)
        else function
        for function in task.metric_fns or []
    }


@dataclasses.dataclass(frozen=True)
class _PostprocessedMetric:
    """A metric function of a task, called as SeqIO's evaluation calls it but without examples."""

    function: MetricFn
    postprocess: Callable[..., Any]

    @property
    def __name__(self) -> str:
        return metric_name(self.function)

    def __call__(self, targets: Sequence[str], predictions: Sequence[str]) -> Mapping[str, Any]:
        """What the function says of the postprocessed answers."""
        return self.function(
            [self.postprocess(text, example={}, is_target=True) for text in targets],
            [self.postprocess(text, example={}, is_target=False) for text in predictions],
        )
