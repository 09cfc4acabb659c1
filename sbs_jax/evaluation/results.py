"""A run's student on a split: prepared once, scored as often as asked, reported at the end."""

import importlib.metadata
import json
from collections.abc import Sequence
from pathlib import Path

import jax

from sbs_jax.configs import TrainConfig
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.evaluation import evaluator
from sbs_jax.evaluation.decoder import Decoder
from sbs_jax.evaluation.evaluator import Result
from sbs_jax.input_pipeline import pipeline
from sbs_jax.input_pipeline.pipeline import Split
from sbs_jax.utils import console
from sbs_jax.utils.console import say
from sbs_jax.utils.files import write_lines

_FILE = "results.json"
_LIBRARIES = ("sbs_jax", "jax", "flax", "optax", "orbax-checkpoint", "sentencepiece")


class Scorer:
    """Scores parameters on splits of a run's dataset."""

    def __init__(
        self, config: TrainConfig, source: pipeline.Source, partitioner: Partitioner
    ) -> None:
        self._config, self._source = config, source
        self._splits: dict[str, Split] = {}
        self._decoder = Decoder(
            config.model, partitioner, source.vocabulary, config.eval_batch_size
        )

    @property
    def metric(self) -> str:
        """The dataset's metric; a function goes by its name."""
        metric = self._source.selection.dataset.metric
        return metric if isinstance(metric, str) else metric.__name__

    def __call__(self, name: str, params: dict, final: bool = False) -> Result:
        """A split's result; `final` adds the majority baseline and, if asked for, rationales."""
        config, targets = self._config, self._config.task_feature_lengths["targets"]
        split = self._split(name, final and config.output_rationale)
        return evaluator.score(
            self._decoder,
            params,
            self._source.selection,
            split,
            max_decode_length=config.max_decode_length or targets,
            rationale_length=targets,
            majority=pipeline.majority_baseline(self._source, config, split) if final else None,
        )

    def _split(self, name: str, with_rationales: bool) -> Split:
        split = self._splits.get(name)
        if split is None or (with_rationales and split.rationale_table is None):
            split = self._source.split(name, self._config, with_rationales)
            self._splits[name] = split
        return split


def finished(config: TrainConfig, step: int) -> dict | None:
    """What results.json says, if it is of this checkpoint and this many training steps."""
    path = Path(config.model_dir) / _FILE
    if not path.exists():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    same = (summary["step"], summary["train_steps"]) == (step, config.train_steps)
    return summary if same else None


def write_report(
    config: TrainConfig, step: int, results: Sequence[Result], metric: str, params: dict
) -> dict:
    """Tells the results and writes predictions files and results.json; returns the latter.

    Of several processes the first writes; all have the results.
    """
    summary = {
        "mixture": config.mixture_or_task_name,
        "metric": metric,
        "step": step,
        "train_steps": config.train_steps,
        "data_fraction": config.data_fraction,
        "random_seed": config.random_seed,
        "results": [result.to_json() for result in results],
        "model": {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))},
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    if console.is_primary():
        model_dir = Path(config.model_dir)
        for result in results:
            evaluator.write_predictions(model_dir, result, step)
            tell(result, step)
        write_lines(model_dir / _FILE, [json.dumps(summary, indent=2) + "\n"])
    return summary


def tell(result: Result, step: int) -> None:
    """A line for the student, and one each for the teacher and the majority baseline."""
    name = f"{result.task} {result.split}"
    say(f"{name}: student {result.accuracy} at step {step}")
    if result.teacher:
        say(f"{name}: teacher {result.teacher}")
    if result.majority:
        say(f"{name}: always the most frequent label {result.majority}")
