"""Registers every dataset's tasks and mixtures in SeqIO, for T5X and other users of SeqIO.

Importing this module is enough: it registers the datasets there are and each one added later.

    from sbs_jax.integrations import seqio_tasks
    import sbs_jax.tasks  # the packaged datasets
    seqio.get_mixture_or_task("cqa_step_by_step")

Text comes from the same `methods` as in our own engine, so both see the same tokens; a test
compares them. Our engine does not import this module, because it needs no TensorFlow.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from sbs_jax.datasets import registry
from sbs_jax.datasets.methods import (
    LABEL,
    METHODS,
    RATIONALE,
    TASK_ID_FEATURE,
    VIEWS,
    Method,
    Prefixes,
    View,
)
from sbs_jax.datasets.records import SEPARATOR, Record
from sbs_jax.datasets.registry import Dataset
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.metrics import accuracy as metrics
from sbs_jax.utils import paths

# The original exchanges the labels of the training split only; a student is scored on gold ones.
_SCORED_AS = {"llm_label": "label", "distill": "finetune"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the registered tasks.

    Attributes:
        vocabulary: "t5", "mt5", "bytes", "demo" or a path (also gs://); None for each dataset's
            own. T5X compares the path's very string with the one in the model's gin file.
        data_fraction, run: of the training split, see `datasets.Dataset.rows`.
        task_ids: give every example the feature `TASK_ID_FEATURE`. Off by default: SeqIO's
            Evaluator has stock feature converters refuse a feature they do not know.
    """

    vocabulary: str | None = None
    label_prefix: str = Prefixes.label
    rationale_prefix: str = Prefixes.rationale
    data_fraction: float = 1.0
    run: int = 0
    task_ids: bool = False

    @property
    def prefixes(self) -> Prefixes:
        return Prefixes(self.label_prefix, self.rationale_prefix)


_settings = Settings()
_registered: dict[str, Dataset] = {}


def configure(
    *,
    vocabulary: str | None = None,
    label_prefix: str | None = None,
    rationale_prefix: str | None = None,
    data_fraction: float | None = None,
    run: int | None = None,
    task_ids: bool | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> Settings:
    """Changes the settings passed and registers every task again; see `Settings`.

    Also meant for gin: ``@seqio_tasks.configure()`` with bindings such as
    ``seqio_tasks.configure.vocabulary = "spiece.model"``. Tasks taken from SeqIO's registry
    before keep their old settings.

    Args:
        data_dir: see `paths.data_dir`.
    """
    global _settings
    if data_dir is not None:
        paths.set_data_dir(data_dir)
    settings: dict[str, Any] = {
        "vocabulary": vocabulary,
        "label_prefix": label_prefix,
        "rationale_prefix": rationale_prefix,
        "data_fraction": data_fraction,
        "run": run,
        "task_ids": task_ids,
    }
    changes = {name: value for name, value in settings.items() if value is not None}
    _settings = dataclasses.replace(_settings, **changes)
    for dataset in list(_registered.values()):
        register(dataset)
    return _settings


def register(dataset: Dataset) -> None:
    """Adds a task for every view and a mixture for every method of two views, at equal rates.

    Tasks that this function added before are replaced. Metrics that a user has since added to
    one, by registering it again, are kept; so is a user's task with another source.
    """
    _registered[dataset.name] = dataset
    features = _features(_settings.vocabulary or dataset.vocabulary, _settings.task_ids)
    for view in VIEWS.values():
        name = f"{dataset.name}_{view.name}"
        if not _is_users(name):
            kept = user_metrics(name)
            seqio.TaskRegistry.remove(name)
            _add_task(name, dataset, view, features, kept)
    for method in METHODS.values():
        if len(method.views) > 1:
            name = f"{dataset.name}_{method.name}"
            seqio.MixtureRegistry.remove(name)
            parts = [f"{dataset.name}_{view}" for view in method.views]
            seqio.MixtureRegistry.add(name, parts, default_rate=1.0)


def _is_users(name: str) -> bool:
    """Whether a task of this name has a source that is not ours."""
    known = seqio.TaskRegistry.names()
    return name in known and not isinstance(seqio.TaskRegistry.get(name).source, _Source)


def user_metrics(name: str) -> list[Callable]:
    """The metric functions that a user gave the task called `name`, when registering it again."""
    if name not in seqio.TaskRegistry.names():
        return []
    dataset = next((d for d in _registered.values() if name in d.task_names()), None)
    ours = dataset.metric_fns if dataset else ()
    functions = seqio.TaskRegistry.get(name).metric_fns
    return [f for f in functions if f not in ours and not isinstance(f, _Accuracy)]


class _Source(seqio.FunctionDataSource):
    """Distinguishes our tasks from a user's of the same name."""


def _add_task(
    name: str,
    dataset: Dataset,
    view: View,
    features: Mapping[str, seqio.Feature],
    user_metrics: Sequence[Callable],
) -> None:
    text_features = {key: features[key] for key in ("inputs", "targets")}
    has_answers = view.name != "rationale"
    metric_fns = [_Accuracy(dataset.metric), *dataset.metric_fns] if has_answers else []
    seqio.TaskRegistry.add(
        name,
        source=_Source(
            functools.partial(_examples, dataset=dataset, view=view, settings=_settings),
            splits=registry.SPLITS,
        ),
        preprocessors=[
            functools.partial(tokenize, output_features=text_features),
            seqio.CacheDatasetPlaceholder(),
            functools.partial(
                seqio.preprocessors.append_eos_after_trim, output_features=text_features
            ),
            *([functools.partial(add_task_id, task_id=view.task_id)] if _settings.task_ids else []),
        ],
        postprocess_fn=functools.partial(
            _postprocess, answer=_method(view).answer, vocabulary=features["targets"].vocabulary
        ),
        metric_fns=[*metric_fns, *user_metrics],
        output_features=features,
    )


def _method(view: View) -> Method:
    """A method whose answers this view's outputs hold."""
    return next(m for m in METHODS.values() if view.name in (*m.views, m.eval_view))


def _examples(
    split: str,
    shuffle_files: bool,
    seed: int | None = None,
    *,
    dataset: Dataset,
    view: View,
    settings: Settings,
) -> tf.data.Dataset:
    """{inputs, targets, label, teacher_label, id} of a split as text.

    `label` is gold, for scoring; `teacher_label` is empty where a record has none.

    A training record without a target is left out. In the other splits all records stay, with
    empty targets where need be: accuracy is over all of them. The whole split's text is held in
    memory: unlike a generator it can be shuffled as a whole and saved in T5X's checkpoints.
    """
    file_split, rows = dataset.rows(split, settings.data_fraction, settings.run)
    training = split == registry.TRAIN
    view = view if training else VIEWS[_SCORED_AS.get(view.name, view.name)]
    place = {row: index for index, row in enumerate(rows.tolist())}
    names = ("inputs", "targets", "label", "teacher_label", "id")
    columns: dict[str, list[str]] = {name: [] for name in names}
    places = []
    for row, record in enumerate(dataset.read(file_split)):
        if row in place:
            inputs, targets = view.texts(record, settings.prefixes)
            if targets is not None or not training:
                places.append(place[row])
                values = (inputs, targets or "", record.label, _teacher_label(record), record.id)
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
    order = np.argsort(places, kind="stable")
    if shuffle_files:
        order = order[np.random.default_rng(seed).permutation(len(order))]
    ordered = {name: np.array(column, object)[order] for name, column in columns.items()}
    return tf.data.Dataset.from_tensor_slices(
        {name: tf.constant(column, tf.string) for name, column in ordered.items()}
    )


def _teacher_label(record: Record) -> str:
    """Empty without a label of the teacher, blank for an unreadable one."""
    return "" if record.llm_label is None else record.llm_label or " "


def tokenize(
    examples: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]
) -> tf.data.Dataset:
    """Text to ids without a final EOS; `SEPARATOR` becomes the EOS id (`vocabularies.encode_text`).

    Keeps the text too, as ``inputs_pretokenized`` and ``targets_pretokenized``.
    """

    @tf.autograph.experimental.do_not_convert  # no Python control flow to convert
    def encode(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        encoded = dict(example)
        for name, feature in output_features.items():
            encoded[f"{name}_pretokenized"] = example[name]
            encoded[name] = _encode(feature.vocabulary, example[name])
        return encoded

    return examples.map(encode, num_parallel_calls=tf.data.AUTOTUNE)


def _encode(vocabulary: seqio.Vocabulary, text: tf.Tensor) -> tf.Tensor:
    sides = tf.strings.split(text, SEPARATOR)
    spec = tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0)
    encoded = tf.map_fn(vocabulary.encode_tf, sides, fn_output_signature=spec)
    eos = tf.fill([encoded.nrows(), 1], tf.constant(vocabularies.EOS_ID, tf.int32))
    return tf.concat([encoded, eos], axis=1).flat_values[:-1]


def add_task_id(examples: tf.data.Dataset, task_id: int) -> tf.data.Dataset:
    """Marks every target token with its task's id, as a feature as long as the targets.

    T5X's packing refuses passthrough features and drops those without a length in
    TASK_FEATURE_LENGTHS; an ordinary feature of the targets' length it aligns with the targets.
    """

    @tf.autograph.experimental.do_not_convert  # no Python control flow to convert
    def mark(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        targets = example["targets"]
        return {**example, TASK_ID_FEATURE: tf.fill(tf.shape(targets), task_id)}

    return examples.map(mark, num_parallel_calls=tf.data.AUTOTUNE)


def _features(spec: str, task_ids: bool) -> dict[str, seqio.Feature]:
    text = seqio.Feature(seqio_vocabulary(spec), add_eos=True)
    features = {"inputs": text, "targets": text}
    if task_ids:
        ids = seqio.PassThroughVocabulary(max(LABEL, RATIONALE) + 1)
        features[TASK_ID_FEATURE] = seqio.Feature(ids, add_eos=False, dtype=tf.int32)
    return features


@functools.cache
def seqio_vocabulary(spec: str) -> seqio.Vocabulary:
    """SeqIO's counterpart of `vocabularies.load`; public models stay on their gs:// path."""
    if spec == "bytes":
        return seqio.ByteVocabulary()
    if spec in vocabularies.PUBLIC:
        return seqio.SentencePieceVocabulary(vocabularies.PUBLIC[spec].bucket_path)
    path = spec
    if not spec.startswith("gs://"):
        local = vocabularies.model_path(spec)  # a missing file is reported now, not by TensorFlow
        path = os.fspath(local) if spec == "demo" else spec
    with tf.io.gfile.GFile(path, "rb") as file:
        extra_ids = vocabularies.missing_extra_ids(file.read())
    return seqio.SentencePieceVocabulary(path, extra_ids)


def _postprocess(
    output: str | bytes,
    *,
    example: Mapping[str, Any],
    is_target: bool,
    answer: Callable[[str], str],
    vocabulary: seqio.Vocabulary,
    **unused: Any,
) -> str:
    """The student's label for an output; for a target the gold label as a student can write it."""
    if not is_target:
        return answer(_text(output))
    gold, teacher = _text(example["label"]), _text(example.get("teacher_label", ""))
    return Gold(vocabulary.decode(vocabulary.encode(gold)), gold, teacher)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


class Gold(str):
    """A gold label as a student can write it, which is all that a metric function needs to see.

    Attributes:
        label: the label as the record has it.
        teacher_label: the teacher's label of the same example; empty where it gave none.
    """

    label: str
    teacher_label: str

    def __new__(cls, text: str, label: str, teacher_label: str) -> "Gold":
        """A string that knows where it comes from."""
        gold = super().__new__(cls, text)
        gold.label, gold.teacher_label = label, teacher_label
        return gold


@dataclasses.dataclass(frozen=True)
class _Accuracy:
    """A dataset's metric as SeqIO's metric function, known from a user's by its type."""

    metric: metrics.Metric

    @property
    def __name__(self) -> str:
        return "accuracy"

    def __call__(self, targets: Sequence[str], predictions: Sequence[str]) -> dict[str, float]:
        """``{"accuracy", "correct", "n"}``, and the teacher's on the same examples.

        The few-shot teacher's are ``teacher_accuracy``, ``teacher_correct`` and ``teacher_n``: over
        the examples that have its label, unreadable ones counted as wrong; left out without any.
        """
        scored = metrics.accuracy(self.metric, predictions, targets)
        result = {"accuracy": scored.value, "correct": scored.correct, "n": scored.n}
        golds = [t for t in targets if isinstance(t, Gold) and t.teacher_label]
        if golds:
            labels = [gold.teacher_label for gold in golds]
            teacher = metrics.accuracy(self.metric, labels, [gold.label for gold in golds])
            result |= {
                "teacher_accuracy": teacher.value,
                "teacher_correct": teacher.correct,
                "teacher_n": teacher.n,
            }
        return result


registry.subscribe(register)
registry.add_metric_source(user_metrics)
