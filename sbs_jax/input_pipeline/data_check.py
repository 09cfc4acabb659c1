"""What is checked before the first step: labels, unknown ids, prefixes, repeated questions.

`check` reads the texts of every split once. Whatever makes a score meaningless is refused; whatever
a user should know is a line.
"""

import collections
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from sbs_jax.configs import TrainConfig
from sbs_jax.datasets import registry, splits
from sbs_jax.datasets.records import Record
from sbs_jax.datasets.splits import SPLITS, TEST, TRAIN
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import label_check, unknown_ids
from sbs_jax.input_pipeline.pipeline import Source
from sbs_jax.input_pipeline.token_cache import TokenTable
from sbs_jax.metrics import extra
from sbs_jax.metrics.accuracy import metric_name

_PAIRS = 1_000  # questions whose two tasks are compared


def check(source: Source, config: TrainConfig, splits: Sequence[str] = SPLITS) -> list[str]:
    """Checks a run's data; returns lines for the user.

    Args:
        source: tokens are prepared, or taken from the cache.
        config: of the run.
        splits: those that the run reads.

    Raises:
        UserError: a split cannot be read; both tasks of a question have the same ids; more than
            `max_unknown` of the ids of training texts, or of another split's questions, are
            unknown; a gold label has no text in the vocabulary; or a metric cannot score gold
            labels.
    """
    _, rows = source.selection.dataset.rows(TRAIN, config.data_fraction, config.random_seed)
    if not config.shared_encoder:  # its decoder distinguishes them
        _refuse_equal_tasks(source, rows)
    unknown = unknown_ids.fractions(source, config, splits)
    _refuse_unknown(source, unknown, config.max_unknown)
    labels, repeats = _read(source, config, splits)
    dataset = source.selection.dataset
    report = label_check.check(labels, dataset.metric, source.vocabulary, dataset.name)
    further = _try_metric_fns(registry.metric_fns(source.selection), labels)
    return [*_unknown_lines(source, unknown), *report.lines(), *further, *repeats]


def _try_metric_fns(
    functions: Sequence[extra.MetricFn], labels: Mapping[str, collections.Counter[str]]
) -> list[str]:
    """Calls the further metrics with gold labels as answers, before any answer costs an update."""
    for split, counts in labels.items():
        if split != TRAIN:
            extra.evaluate(functions, list(counts), list(counts))
    return [
        f"metric {metric_name(function)} takes model scores, which T5X alone computes: left out"
        for function in functions
        if not extra.takes_predictions(function)
    ]


def _training_tables(source: Source) -> dict[str, TokenTable]:
    return {view.name: source.table(TRAIN, view) for view in source.selection.views}


def _refuse_equal_tasks(source: Source, rows: np.ndarray) -> None:
    tables = list(_training_tables(source).values())
    for row in rows[:_PAIRS].tolist() if len(tables) == 2 else ():
        if np.array_equal(tables[0].inputs(row), tables[1].inputs(row)):
            prefixes = source.prefixes
            raise UserError(
                f"LABEL_PREFIX = {prefixes.label!r} and RATIONALE_PREFIX = {prefixes.rationale!r} "
                f"give the same ids in VOCABULARY = {source.vocabulary.spec!r}, so the two tasks "
                "cannot be distinguished; choose prefixes that the vocabulary can write"
            )


def _refuse_unknown(source: Source, fractions: Mapping[str, float], most: float) -> None:
    for kind, fraction in fractions.items():
        if fraction > most:
            raise UserError(
                f"VOCABULARY = {source.vocabulary.spec!r}: {fraction:.1%} of the ids of the "
                f"{kind} are unknown, more than {most:.0%}; choose a vocabulary of this "
                "text, or set configs.TrainConfig.max_unknown higher"
            )


def _unknown_lines(source: Source, fractions: Mapping[str, float]) -> Iterator[str]:
    if any(fractions.values()):
        parts = ", ".join(f"{kind} {fraction:.2%}" for kind, fraction in fractions.items())
        yield f"unknown ids in VOCABULARY = {source.vocabulary.spec!r}: {parts}"


@dataclasses.dataclass
class _Repeats:
    """Counts questions (equal inputs) within and across splits; keeps hashes, not texts."""

    seen: dict[str, collections.Counter[int]] = dataclasses.field(default_factory=dict)

    def add(self, split: str, record: Record) -> None:
        self.seen.setdefault(split, collections.Counter())[splits.question(record.input)] += 1

    def lines(self, name: str) -> Iterator[str]:
        """A line for each pair of splits that share questions, and for a test with repeats."""
        names = list(self.seen)
        for place, later in enumerate(names):
            for earlier in names[:place]:
                shared = self.seen[later].keys() & self.seen[earlier].keys()
                if shared:
                    rows = sum(self.seen[later][question] for question in shared)
                    yield (
                        f"warning: {name}: {rows} of {self.seen[later].total()} {later} records "
                        f"have the same question as a {earlier} record; their score says "
                        "little about new questions"
                    )
        test = self.seen.get(TEST, collections.Counter())
        if test.total() > len(test):
            yield (
                f"warning: {name}/test: {test.total()} records ask {len(test)} different "
                "questions; repeated ones make intervals too narrow"
            )


def _read(
    source: Source, config: TrainConfig, splits: Sequence[str]
) -> tuple[dict[str, collections.Counter[str]], list[str]]:
    """(Split -> counts of its gold labels, lines about repeated questions)."""
    dataset, repeats = source.selection.dataset, _Repeats()
    labels: dict[str, collections.Counter[str]] = {}
    places: dict[str, dict[str, np.ndarray]] = {}  # file -> split -> whether a row is in it
    for split in splits:
        file_split, rows = dataset.rows(split, config.data_fraction, config.random_seed)
        inside = np.zeros(dataset.count(file_split), bool)
        inside[rows] = True
        places.setdefault(file_split, {})[split] = inside
        labels[split] = collections.Counter()
    for file_split, members in places.items():
        for row, record in enumerate(dataset.read(file_split)):
            for split, inside in members.items():
                if inside[row]:
                    labels[split][record.label] += 1
                    repeats.add(split, record)
    return labels, list(repeats.lines(dataset.name))
