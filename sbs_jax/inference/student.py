"""A trained student: its checkpoint, its vocabulary, and how it is asked.

Prediction, evaluation and export all start from the same `Student`, found by `find`.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import jax

from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.formats import native, t5x
from sbs_jax.checkpoints.formats.params import Checkpoint, check_fits, read_all
from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.datasets import methods, registry
from sbs_jax.datasets.methods import Method, Prefixes
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.input_pipeline.vocabularies import Vocabulary
from sbs_jax.runs import layout, run_dir, t5x_run
from sbs_jax.utils.buckets import AnyPath, place


@dataclasses.dataclass(frozen=True)
class Asking:
    """How a student is asked, as its run trained it.

    Attributes:
        method: views, and how a label is read from an output.
        prefixes: put before a question, by task.
        input_length: tokens after which a question is truncated, its EOS kept.
        label_length: maximum number of new tokens of a label.
        rationale_length: maximum number of new tokens of a rationale.
        max_unknown: fraction of unknown ids above which a question is not understood.
        rationale_start: the decoder's first input for a rationale; a label's is 0.
    """

    method: Method
    prefixes: Prefixes
    input_length: int
    label_length: int
    rationale_length: int
    max_unknown: float
    rationale_start: int = methods.START_IDS[methods.LABEL]

    @classmethod
    def of(cls, run: TrainConfig) -> "Asking":
        """The way a run's student is asked."""
        targets = run.task_feature_lengths["targets"]
        return cls(
            method=registry.method_of(run.mixture_or_task_name),
            prefixes=Prefixes.of(run),
            input_length=run.task_feature_lengths["inputs"],
            label_length=run.max_decode_length or targets,
            rationale_length=targets,
            max_unknown=run.max_unknown,
            rationale_start=methods.start_id(methods.RATIONALE, run.shared_encoder),
        )

    @property
    def label_prefix(self) -> str:
        """Text put before a question to get its label."""
        return self._prefix(self.method.eval_view)

    @property
    def rationale_prefix(self) -> str | None:
        """Text put before a question to get a rationale; None if the student gives none."""
        view = self.method.rationale_view
        return None if view is None else self._prefix(view)

    @property
    def explains(self) -> bool:
        """Whether the student was trained to give rationales."""
        return self.rationale_prefix is not None

    def _prefix(self, view: str) -> str:
        return methods.VIEWS[view].prefix_text(self.prefixes)

    @property
    def longest(self) -> int:
        """Maximum number of new tokens of any output: a label's, or a rationale's if longer."""
        lengths = [self.label_length]
        if self.explains:
            lengths.append(self.rationale_length)
        return max(lengths)


@dataclasses.dataclass(frozen=True)
class Student:
    """A checkpoint that can be asked, evaluated or exported.

    Attributes:
        checkpoint: parameters, read when needed; its config is that of inference, its vocabulary
            names `vocabulary`.
        run: the run that trained it, ours or T5X's; None for parameters from elsewhere.
        results: content of results.json, if it is of this very step; else None.
        config_gin: the run's config.gin, or None; T5X's is none that `sbs train` reads.
        test_steps: at which the run's test questions were answered, by its predictions files.
    """

    checkpoint: Checkpoint
    vocabulary: Vocabulary
    run: TrainConfig | None = None
    results: dict[str, Any] | None = None
    config_gin: str | None = None
    test_steps: Sequence[int] = ()

    @property
    def config(self) -> T5Config:
        """The model, without what only training needs."""
        return self.checkpoint.config

    @property
    def asking(self) -> Asking | None:
        """How it is asked; None where no run of ours says so."""
        return Asking.of(self.run) if self.run else None

    def params(self, partitioner: Partitioner) -> dict:
        """Float32 parameters on the devices of a mesh."""
        arrays = read_all(self.checkpoint)
        return jax.device_put(arrays, partitioner.param_shardings(arrays))


def find(
    source: str | os.PathLike[str], vocabulary: str | None = None, step: int | None = None
) -> Student:
    """The student in a MODEL_DIR (its best checkpoint), one step of it, or any other checkpoint.

    Args:
        source: what `initial.find` takes, or a MODEL_DIR of upstream T5X.
        vocabulary: where the vocabulary is now, or which it is if the source does not name it.
        step: a checkpoint of a MODEL_DIR; None takes the best on validation, of T5X the newest.

    Raises:
        UserError: no checkpoint, or a vocabulary that is unknown, missing or another one.
    """
    return _student(os.fspath(source), vocabulary, step, of_t5x=t5x_run.is_ours(source))


def _student(source: str, vocabulary: str | None, step: int | None, of_t5x: bool) -> Student:
    checkpoint, run = _open_t5x(source, step) if of_t5x else _open(source, step)
    checkpoint = initial.with_vocabulary(checkpoint, vocabulary)
    if checkpoint.vocabulary is None:
        raise UserError(f"{source}: does not name its vocabulary; give it with --vocabulary")
    ours = None if run is None or of_t5x else place(checkpoint.path).parent.parent
    loaded = _vocabulary(checkpoint)
    if loaded.size > checkpoint.config.vocab_size:
        raise UserError(
            f"--vocabulary {loaded.spec!r}: needs {loaded.size} embedding rows, {source} has "
            f"{checkpoint.config.vocab_size}; give the one it was trained with"
        )
    config = _for_inference(run.model) if run else checkpoint.config
    checkpoint = dataclasses.replace(checkpoint, config=config)
    if ours is None:
        return Student(checkpoint, loaded, run)
    results = _json(ours / layout.RESULTS)
    return Student(
        checkpoint,
        loaded,
        run=run,
        results=results if results and results.get("step") == checkpoint.step else None,
        config_gin=_text(ours / layout.CONFIG_GIN),
        test_steps=layout.predicted_steps(ours, registry.TEST),
    )


def find_run(
    model_dir: str | os.PathLike[str], vocabulary: str | None = None, step: int | None = None
) -> Student:
    """As `find`, of a MODEL_DIR of `sbs train` or of upstream T5X only.

    Raises:
        UserError: as `find`, or the folder holds no run.
    """
    of_t5x = t5x_run.is_one(model_dir)
    if not of_t5x:
        run_dir.load(model_dir)
    student = _student(os.fspath(model_dir), vocabulary, step, of_t5x)
    if student.run is None:
        raise UserError(
            f"{model_dir}: holds parameters that no run trained, so no way to ask them is known; "
            "give the MODEL_DIR of sbs train"
        )
    return student


def check_explains(student: Student, model_dir: str | os.PathLike[str]) -> None:
    """Raises UserError where --output_rationale asks a student that gives no rationales."""
    assert student.run is not None
    if not Asking.of(student.run).explains:
        raise UserError(f"--output_rationale: {model_dir} was not trained to give rationales")


def _open(source: str, step: int | None) -> tuple[Checkpoint, TrainConfig | None]:
    """A checkpoint of any format, and the run of ours that trained it."""
    checkpoint = initial.find(source) if step is None else native.read(source, step)
    ours = checkpoint.kind == "sbs"
    return checkpoint, _run(place(checkpoint.path).parent.parent) if ours else None


def _open_t5x(model_dir: str, step: int | None) -> tuple[Checkpoint, TrainConfig]:
    """The same of a MODEL_DIR of upstream T5X, whose config.gin describes all its checkpoints."""
    run = t5x_run.load(model_dir)
    chosen, folder = t5x_run.checkpoint(model_dir, step)
    checkpoint = t5x.read(os.fspath(folder))
    try:
        check_fits(checkpoint.params, run.model, checkpoint.path)
    except UserError as error:
        config_gin = os.path.join(model_dir, layout.CONFIG_GIN)
        raise UserError(f"{config_gin} describes another model than {error}") from None
    return dataclasses.replace(checkpoint, step=chosen, vocabulary=run.vocabulary), run


def _run(model_dir: AnyPath) -> TrainConfig | None:
    """The run in a folder; None for a converted checkpoint.

    Older versions gave a converted checkpoint a run.json without a task.
    """
    if not run_dir.exists(model_dir):
        return None
    run = run_dir.load(model_dir)
    return run if run.mixture_or_task_name else None


def _vocabulary(checkpoint: Checkpoint) -> Vocabulary:
    """The vocabulary of a checkpoint; it must be that of its run, if there is one."""
    assert checkpoint.vocabulary is not None
    try:
        vocabulary = vocabularies.load(checkpoint.vocabulary)
    except UserError as error:
        raise UserError(f"{error} (--vocabulary says where it is now)") from None
    if not initial.trained_with(checkpoint, vocabulary):
        raise initial.another_vocabulary(checkpoint)
    return vocabulary


def _for_inference(model: T5Config) -> T5Config:
    return dataclasses.replace(model, param_dtype="float32", remat_policy="none", scan_layers=False)


def _json(path: AnyPath) -> dict[str, Any] | None:
    text = _text(path)
    try:
        return json.loads(text) if text is not None else None
    except ValueError:
        raise UserError(f"{path}: not valid JSON; run sbs evaluate again") from None


def _text(path: AnyPath) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
