"""results.json and the predictions files: written once, kept while they belong to the run."""

import importlib.metadata
import json
import os
from collections.abc import Sequence
from typing import Any

import jax

from sbs_jax.configs import TrainConfig
from sbs_jax.datasets.registry import TEST, VALIDATION
from sbs_jax.evaluation.evaluator import Evaluator, Result
from sbs_jax.evaluation.lengths import Truncated
from sbs_jax.metrics.accuracy import Metric, metric_name
from sbs_jax.runs import layout
from sbs_jax.utils import console
from sbs_jax.utils.buckets import AnyPath, place
from sbs_jax.utils.console import say
from sbs_jax.utils.files import write_lines
from sbs_jax.utils.paths import git_commit

_LIBRARIES = ("sbs_jax", "jax", "flax", "optax", "orbax-checkpoint", "sentencepiece")


def versions() -> dict[str, str]:
    """What made the numbers: libraries, and the commit where this package runs from a checkout."""
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    commit = git_commit()
    return libraries | ({"commit": commit} if commit else {})


def finished(config: TrainConfig, step: int, evaluator: Evaluator) -> dict[str, Any] | None:
    """The content of results.json if it holds what scoring this checkpoint now would give.

    That is: the same step and TRAIN_STEPS, and for every split the same questions, gold labels,
    metric, decoding length and teacher accuracy, and rationales if the run asks for them. Otherwise
    prints the reason and returns None.
    """
    path = place(config.model_dir) / layout.RESULTS
    if not path.exists():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    if (summary["step"], summary["train_steps"]) != (step, config.train_steps):
        return None
    if evaluator.explains and not summary.get("output_rationale"):
        say(f"{path}: no rationales were written; scoring again")
        return None
    by_split = {entry["split"]: entry for entry in summary["results"]}
    for name in (VALIDATION, TEST):
        change = _change(by_split.get(name, {}), name, evaluator)
        if change:
            say(f"{path}: {change}; scoring again")
            return None
    return summary


def _change(entry: dict[str, Any], name: str, evaluator: Evaluator) -> str:
    """What differs between an entry of results.json and a score made now; empty for nothing."""
    identity = evaluator.identity(name)
    if "fingerprint" not in entry:
        return f"the {name} score was written without a fingerprint of its questions"
    if entry["questions"] != identity.questions:
        return f"the {name} questions or gold labels changed"
    if entry["max_decode_length"] != evaluator.max_decode_length:
        return f"the {name} score was decoded with MAX_DECODE_LENGTH = {entry['max_decode_length']}"
    if entry["fingerprint"] != identity.fingerprint:
        return f"the metric, or what the student reads of {name}, changed"
    teacher = evaluator.teacher(name)
    if entry["teacher"] != (teacher and teacher.to_json()):
        return f"the teacher's labels of {name} changed"
    return ""


def write_report(
    config: TrainConfig,
    step: int,
    results: Sequence[Result],
    evaluator: Evaluator,
    truncated: Truncated,
    params: dict,
) -> dict[str, Any]:
    """Prints the results, writes predictions files and results.json, and returns the latter.

    Only process 0 writes; all processes return the results.
    """
    summary = {
        "mixture": config.mixture_or_task_name,
        "metric": metric_name(evaluator.metric),
        "step": step,
        "train_steps": config.train_steps,
        "data_fraction": config.data_fraction,
        "random_seed": config.random_seed,
        "results": [result.to_json() for result in results],
        "truncated": truncated,
        "max_decode_length": evaluator.max_decode_length,
        "output_rationale": evaluator.explains,
        "model": {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))},
        "versions": versions(),
    }
    if console.is_primary():
        for result in results:
            write_predictions(config.model_dir, result, step)
            print_result(result, step)
        path = place(config.model_dir) / layout.RESULTS
        write_lines(path, [json.dumps(summary, indent=2) + "\n"])
    return summary


def replace_score(
    model_dir: str | os.PathLike[str], result: Result, step: int, metric: Metric
) -> None:
    """Puts a split's score into results.json, if that is of this step and has another.

    Labels that were corrected after the run change it, and `sbs report` compares results.json with
    the predictions file.
    """
    path = place(model_dir) / layout.RESULTS
    summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    entries = summary.get("results", [])
    old = next((entry for entry in entries if entry["split"] == result.split), None)
    new = json.loads(json.dumps(result.to_json()))
    scored = ("correct", "n", "teacher", *result.identity._fields)
    if old is None or summary["step"] != step or all(old.get(k) == new[k] for k in scored):
        return
    entries[entries.index(old)] = new
    summary["metric"] = metric_name(metric)
    write_lines(path, [json.dumps(summary, indent=2) + "\n"])
    say(f"{path}: the {result.split} score was {old['correct']:g} of {old['n']}, and is replaced")


def write_predictions(model_dir: str | os.PathLike[str], result: Result, step: int) -> AnyPath:
    """Writes predictions-TASK-SPLIT-STEP.jsonl, complete or absent."""
    path = layout.predictions(model_dir, result.task, result.split, step)
    write_lines(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in result.predictions))
    return path


def print_result(result: Result, step: int) -> None:
    """Prints a line each for the student, truncated answers, teacher and majority baseline."""
    name = f"{result.task} {result.split}"
    say(f"{name}: student {result.accuracy} at step {step}")
    if result.truncated_answers:
        say(
            f"{name}: {result.truncated_answers} of {len(result.predictions)} answers were "
            f"truncated after MAX_DECODE_LENGTH = {result.max_decode_length} tokens"
        )
    if result.teacher:
        say(f"{name}: teacher {result.teacher}")
    if result.majority:
        say(f"{name}: always the most frequent label {result.majority}")
