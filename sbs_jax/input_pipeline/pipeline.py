"""From a run's configuration to its training batches and the splits it is scored on."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from sbs_jax.configs import TrainConfig
from sbs_jax.datasets import methods, registry
from sbs_jax.datasets.methods import View
from sbs_jax.datasets.records import Record
from sbs_jax.datasets.registry import Selection
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import token_cache, vocabularies
from sbs_jax.input_pipeline.batch_plan import PlanSpec
from sbs_jax.input_pipeline.batches import Batches
from sbs_jax.input_pipeline.token_cache import TokenTable
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.metrics import accuracy
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.utils import paths
from sbs_jax.utils.console import say

# Updates of T5-small (CPU) and T5-base (GPU) that take as long as one compilation of the step.
_COMPILE_UPDATES = {False: 25, True: 1000}


@dataclasses.dataclass(frozen=True)
class Split:
    """What is scored: a split's records with the tokens of the questions asked about them.

    Attributes:
        records: of the split, in order.
        rows: row of `label_table` (and `rationale_table`) of every record.
        label_table: tokens of the questions that ask for the label.
        rationale_table: of those that ask for the rationale; None leaves rationales out.
    """

    name: str
    records: list[Record]
    rows: np.ndarray
    label_table: TokenTable
    rationale_table: TokenTable | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a run's tokens come from: dataset, vocabulary, prefixes and lengths."""

    selection: Selection
    vocabulary: Vocabulary
    prefixes: methods.Prefixes
    lengths: Mapping[str, int]

    @classmethod
    def of(cls, config: TrainConfig) -> "Source":
        """Raises UserError for an unknown task, or a vocabulary larger than the model's."""
        vocabulary = vocabularies.load(config.vocabulary)
        if vocabulary.size > config.model.vocab_size:
            raise UserError(
                f"VOCABULARY = {config.vocabulary!r} needs {vocabulary.size} embedding rows, the "
                f"model has vocab_size = {config.model.vocab_size}; set VOCAB_SIZE to at least "
                f"{vocabulary.size}"
            )
        selection = registry.resolve(config.mixture_or_task_name)
        if config.shared_encoder and len(selection.views) == 1:
            raise UserError(
                f"SHARED_ENCODER = True: {selection.name} is one task, so that nothing is shared; "
                "leave it out, or train on a mixture of labels and rationales (step_by_step)"
            )
        return cls(
            selection=selection,
            vocabulary=vocabulary,
            prefixes=methods.Prefixes.of(config),
            lengths=config.task_feature_lengths,
        )

    def fingerprints(self) -> dict[str, str]:
        """Of the vocabulary and of the training records: what a run cannot change under way."""
        return {
            "vocabulary_fingerprint": self.vocabulary.fingerprint,
            "data_fingerprint": self.selection.dataset.fingerprint(registry.TRAIN),
        }

    def table(self, file_split: str, view: View, targets_needed: bool = False) -> TokenTable:
        """The file's tokens for one view, prepared now or taken from the cache."""
        return token_cache.prepare(
            self.selection.dataset,
            file_split,
            view,
            self.vocabulary,
            self.lengths,
            self.prefixes,
            paths.cache_home() / "tokens",
            targets_needed=targets_needed,
        )

    def rows(self, split: str, config: TrainConfig) -> tuple[str, np.ndarray]:
        """(name of the file's split, row numbers) of a split of the run."""
        # Validation too: where it is carved from the training rows, it is carved from the fraction.
        return self.selection.dataset.rows(split, config.data_fraction, config.random_seed)

    def scored_rows(self, split: str, config: TrainConfig) -> tuple[str, np.ndarray]:
        """The first EVALUATOR_NUM_EXAMPLES of `rows`."""
        file_split, rows = self.rows(split, config)
        return file_split, rows[: config.eval_num_examples]

    def split(self, name: str, config: TrainConfig, with_rationales: bool) -> Split:
        """A split to be scored: its records and the tokens of its questions."""
        method = self.selection.method
        file_split, rows = self.scored_rows(name, config)
        by_row = _records(self.selection, file_split, rows)
        rationale = methods.VIEWS[method.rationale_view] if method.rationale_view else None
        return Split(
            name=name,
            records=[by_row[row] for row in rows.tolist()],
            rows=rows,
            label_table=self.table(file_split, methods.VIEWS[method.eval_view]),
            rationale_table=(
                self.table(file_split, rationale) if with_rationales and rationale else None
            ),
        )


def _records(selection: Selection, file_split: str, rows: np.ndarray) -> dict[int, Record]:
    """The records at `rows` of a file that is read once, streaming."""
    wanted = set(rows.tolist())
    return {
        row: record
        for row, record in enumerate(selection.dataset.read(file_split))
        if row in wanted
    }


def training_batches(
    source: Source, config: TrainConfig, rows_multiple: int, accelerator: bool = False
) -> Batches:
    """The run's batches, a function of (random_seed, step) alone.

    Args:
        rows_multiple: rows of a batch are rounded up to this (batch shards x micro-batches).
        accelerator: compilation costs many updates there, so that fewer batch shapes pay off.
    """
    selection = source.selection
    file_split, rows = source.rows(registry.TRAIN, config)
    if config.data_fraction != 1:
        say(
            f"{selection.dataset.name}/train: DATA_FRACTION = {config.data_fraction:g} trains on "
            f"{len(rows):,} of {selection.dataset.count(file_split):,} records"
        )
    tables = []
    for view in selection.views:
        table = source.table(file_split, view, targets_needed=True)
        missing = int(np.sum(table.target_lengths[rows] == 0))
        if missing:
            say(f"{selection.dataset.name}/train: {missing} of {len(rows)} have no {view.name}")
        tables.append((view.task_id, table))
        for number in range(1, _rationales(view, table, config)):
            more = source.table(file_split, view.of_rationale(number))
            tables.append((view.task_id, more))
    spec = PlanSpec(
        batch_size=config.batch_size,
        steps=config.train_steps,
        seed=config.random_seed,
        pack=config.pack,
        multiple_of=rows_multiple,
        row_lengths=config.row_lengths,
        draw=config.rationales == "draw",
        shared_encoder=config.shared_encoder,
        emb_dim=config.model.emb_dim,
        compile_updates=_COMPILE_UPDATES[accelerator],
    )
    batches = Batches(tables, rows, spec)
    if config.batch_size > batches.questions:
        say(
            f"warning: BATCH_SIZE = {config.batch_size} is more than the {batches.questions:,} "
            "training questions: a batch holds questions more than once; choose a smaller one"
        )
    return batches


def _rationales(view: View, table: TokenTable, config: TrainConfig) -> int:
    """How many rationales of an example the run trains on."""
    return table.rationales if view.explains and config.rationales != "first" else 1


def majority_baseline(source: Source, config: TrainConfig, split: Split) -> Accuracy | None:
    """What always answering the most frequent training label scores; None for equations."""
    dataset = source.selection.dataset
    if dataset.metric != "text":
        return None
    file_split, rows = source.rows(registry.TRAIN, config)
    train = _records(source.selection, file_split, rows)
    return accuracy.majority_baseline(
        [record.label for record in train.values()], [record.label for record in split.records]
    )
