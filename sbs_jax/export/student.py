"""What is exported: a checkpoint with all that its run tells about how to ask it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.formats.params import Checkpoint
from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.datasets import methods, registry
from sbs_jax.datasets.methods import Method
from sbs_jax.errors import UserError
from sbs_jax.inference import student
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.runs import run_dir

CONFIG_GIN = "config.gin"
_RESULTS = "results.json"


@dataclasses.dataclass(frozen=True)
class Student:
    """A checkpoint to be deployed.

    Attributes:
        checkpoint: its config says how the run computes, its vocabulary is known.
        run: None for parameters that no run of ours trained.
        results: content of results.json, if it is of this very step; else None.
        config_gin: the run's config.gin, or None.
    """

    checkpoint: Checkpoint
    run: TrainConfig | None
    results: dict[str, Any] | None
    config_gin: str | None

    @property
    def method(self) -> Method | None:
        """How the run trained and is asked."""
        return registry.method_of(self.run.mixture_or_task_name) if self.run else None

    @property
    def prefix(self) -> str:
        """What is put before a question to get its label."""
        return self._prefix(self.method.eval_view) if self.method else ""

    @property
    def rationale_prefix(self) -> str | None:
        """What is put before a question to get a rationale; None if it was not trained to."""
        view = self.method.rationale_view if self.method else None
        return None if view is None else self._prefix(view)

    def _prefix(self, view: str) -> str:
        field = methods.VIEWS[view].prefix
        prefixes = methods.Prefixes(self.run.label_prefix, self.run.rationale_prefix)
        return getattr(prefixes, field) if field else ""

    @property
    def input_length(self) -> int | None:
        """Tokens after which a question is cut, its EOS kept."""
        return self.run.task_feature_lengths["inputs"] if self.run else None

    @property
    def max_decode_length(self) -> int | None:
        """Most new tokens of a label."""
        return (self.run.max_decode_length or self.rationale_length) if self.run else None

    @property
    def rationale_length(self) -> int | None:
        """Most new tokens of a rationale."""
        return self.run.task_feature_lengths["targets"] if self.run else None


def find(source: str, vocabulary: str | None = None) -> Student:
    """The student in a MODEL_DIR (its best checkpoint), one step of it, or any other checkpoint.

    Args:
        vocabulary: where the vocabulary is now, or which it is if the source does not tell.

    Raises:
        UserError: no checkpoint, or a vocabulary that is unknown, missing or another one.
    """
    checkpoint = initial.with_vocabulary(initial.find(source), vocabulary)
    model_dir = Path(checkpoint.path).parent.parent
    run = None
    if checkpoint.kind == "sbs" and run_dir.exists(model_dir):
        found = run_dir.load(model_dir)
        run = found if found.mixture_or_task_name else None
    spec = checkpoint.vocabulary
    if spec is None:
        raise UserError(f"{source}: does not name its vocabulary; give it with --vocabulary")
    loaded = student.vocabulary_of(model_dir, spec) if run else vocabularies.load(spec)
    if loaded.size > checkpoint.config.vocab_size:
        raise UserError(
            f"--vocabulary {spec!r}: needs {loaded.size} embedding rows, {source} has "
            f"{checkpoint.config.vocab_size}; give the one it was trained with"
        )
    config = _deployed(run.model) if run else checkpoint.config
    results = _json(model_dir / _RESULTS) if run else None
    return Student(
        checkpoint=dataclasses.replace(checkpoint, config=config, vocabulary=spec),
        run=run,
        results=results if results and results.get("step") == checkpoint.step else None,
        config_gin=_text(model_dir / CONFIG_GIN) if run else None,
    )


def _deployed(model: T5Config) -> T5Config:
    """Without what only training needs."""
    return dataclasses.replace(model, param_dtype="float32", remat_policy="none", scan_layers=False)


def _json(path: Path) -> dict[str, Any] | None:
    text = _text(path)
    try:
        return json.loads(text) if text is not None else None
    except ValueError:
        raise UserError(f"{path}: not valid JSON; run sbs evaluate again") from None


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
