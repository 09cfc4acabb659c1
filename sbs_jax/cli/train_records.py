"""`sbs train --records`: a run from a table, without registering a dataset.

The records as they are split, and the vocabulary, go into MODEL_DIR: every verb works on it from
any directory, wherever the folder is moved.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import own_data as table
from sbs_jax.errors import UserError
from sbs_jax.utils import buckets
from sbs_jax.utils.buckets import place
from sbs_jax.utils.console import say

if TYPE_CHECKING:
    from sbs_jax.configs import TrainConfig
    from sbs_jax.datasets.records import Record
    from sbs_jax.input_pipeline.vocabularies import Vocabulary

_NAMES = ("eval_records", "validation_records", "vocabulary", *table.FLAG_NAMES)
_PIECES = 4000  # of a vocabulary that is trained on the records


def define(values: flags.FlagValues) -> None:
    """Defines --records and the flags that need it."""
    shared.path(
        values,
        "records",
        None,
        "Train on this table, without a gin file: JSONL, JSON, CSV, TSV (also .gz), Parquet, or a "
        "folder that Hugging Face datasets saved to disk.",
    )
    shared.path(values, "eval_records", None, "Test records; default: drawn from --records.")
    shared.path(
        values, "validation_records", None, "Validation records; default: drawn from --records."
    )
    table.define(values)
    shared.vocabulary(
        values, "with --records; default: trained on the records for mini, else t5 (sbs vocabulary)"
    )


def check(values: flags.FlagValues) -> None:
    """Refuses flags that need --records, and the binding that it sets itself."""
    for name in _NAMES if not values.records else ():
        if values[name].present:
            raise UserError(f"--{name}: has an effect only with --records (sbs train --help)")
    named = [binding.partition("=")[0].strip() for binding in values.gin_bindings]
    if values.records and "MIXTURE_OR_TASK_NAME" in named:
        raise UserError(
            "--gin.MIXTURE_OR_TASK_NAME: with --records, the dataset is the table's; "
            "--gin.METHOD='\"distill\"' names another method (sbs tasks lists them)"
        )


def default_model_dir(records: str) -> str:
    """runs/NAME, of a table NAME.csv.gz."""
    return f"runs/{Path(records).name.partition('.')[0]}"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run's records, in memory, and its gin bindings.

    Attributes:
        records: split -> records.
        vocabulary: content of the model that was trained on them, or None.
    """

    model_dir: Path
    gin_files: list[str]
    bindings: list[str]
    records: "Mapping[str, Sequence[Record]]"
    vocabulary: bytes | None

    def check_plan(self, config: "TrainConfig") -> None:
        """Raises UserError before the first start: a plan measures the batches of what it wrote."""
        from sbs_jax.datasets import own_data

        if not (self.model_dir / own_data.DATA).is_dir():
            lengths = config.task_feature_lengths
            raise UserError(
                f"--plan: the run has not yet written its records to {self.model_dir}; give "
                f"--plan_shape={config.batch_size},{lengths['inputs']},{lengths['targets']}, one "
                "question per row"
            )

    def write(self, config: "TrainConfig") -> None:
        """Puts records and vocabulary into MODEL_DIR, unless they are there.

        Each process of a run writes them before it joins the others: the files are the same, and
        take their names when they are complete.

        Raises:
            UserError: the folder holds other records, or a run without records.
        """
        from sbs_jax.datasets import own_data
        from sbs_jax.runs import layout, run_dir
        from sbs_jax.utils.files import write_bytes

        if place(config.model_dir) != self.model_dir:
            raise UserError("--gin.MODEL_DIR: with --records, give --model_dir instead")
        folder = self.model_dir / own_data.DATA
        if not run_dir.exists(self.model_dir):
            own_data.write(folder, self.records)
        elif not own_data.holds(folder, self.records):
            raise UserError(
                f"{self.model_dir}: holds a run on other records; choose another --model_dir"
            )
        if self.vocabulary is not None:
            write_bytes(self.model_dir / layout.SPIECE, self.vocabulary)


def prepare(values: flags.FlagValues, model_dir: str) -> Prepared:
    """Reads, splits and measures the records, and chooses settings; writes nothing."""
    buckets.require(model_dir, "--model_dir")
    if place(model_dir).is_file():
        raise UserError(f"--model_dir={model_dir}: is a file; give the folder of the run")
    paths = {
        "train": values.records,
        "validation": values.validation_records,
        "test": values.eval_records,
    }
    records = table.records(values, paths, say)
    spec, model = _vocabulary(values, model_dir, records)
    vocabulary = _load(spec, model)
    macros = {
        "MODEL_DIR": model_dir,
        "DATASET": _dataset(model_dir),
        "METHOD": table.method(records),
        "METRIC": values.metric,
        "VOCABULARY": spec,
        **table.settings(
            records, values.size, table.lengths(records, vocabulary, say), vocabulary.size
        ),
    }
    return Prepared(
        place(model_dir),
        ["sbs_runs/records.gin", f"sbs_models/{table.MODELS[values.size]}.gin"],
        [f"{name} = {value!r}" for name, value in macros.items()],
        records,
        model,
    )


def _dataset(model_dir: str) -> str:
    """The folder's name; where a run continues, the name it had, wherever the folder is now."""
    from sbs_jax.datasets import registry
    from sbs_jax.runs import run_dir

    if run_dir.exists(model_dir):
        mixture = run_dir.load(model_dir).mixture_or_task_name
        return mixture.removesuffix(f"_{registry.method_of(mixture).name}")
    return table.name_of(buckets.resolved(place(model_dir)).name)


def _vocabulary(
    values: flags.FlagValues, model_dir: str, records: "Mapping[str, Sequence[Record]]"
) -> tuple[str, bytes | None]:
    """(VOCABULARY, content of a model of the records' own text or None)."""
    from sbs_jax.input_pipeline import vocabulary_training
    from sbs_jax.runs import layout

    if values.vocabulary or values.size != "mini":
        return values.vocabulary or "t5", None
    path = place(model_dir) / layout.SPIECE
    if path.is_file():  # the run continues
        return str(path), path.read_bytes()
    rows = records["train"]
    texts = (text for row in rows for text in (row.input, *row.targets))
    model = vocabulary_training.train(texts, _PIECES, always=[row.label for row in rows])
    say(f"vocabulary  trained on the training records: {path}; --vocabulary names another")
    return str(path), model


def _load(spec: str, model: bytes | None) -> "Vocabulary":
    from sbs_jax.input_pipeline import vocabularies

    if model is None:
        return vocabularies.load(spec)
    return vocabularies.SentencePieceVocabulary(model, spec)
