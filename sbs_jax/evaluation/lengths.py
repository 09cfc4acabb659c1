"""Computes a run's decoding length and truncated sequences before its first step."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from sbs_jax.configs import TrainConfig
from sbs_jax.datasets import methods, registry
from sbs_jax.input_pipeline.pipeline import Source
from sbs_jax.input_pipeline.token_cache import TokenTable
from sbs_jax.utils.console import say

_MULTIPLE = 16  # few decoding lengths, few compilations

# {split: {task: {"examples": n, "inputs": truncated, "targets": truncated}}}
Truncated = dict[str, dict[str, dict[str, int]]]


def resolve(config: TrainConfig, source: Source) -> TrainConfig:
    """The configuration with a number for `max_decode_length`.

    None becomes the longest label target of the whole training file, rounded up to a multiple of
    16, at most TASK_FEATURE_LENGTHS["targets"]: the same for every fraction and seed. A number
    is kept; training targets that are longer are counted and printed.
    """
    longest = [
        (name, source.table(registry.TRAIN, methods.VIEWS[name], targets_needed=True))
        for name in _label_tasks(source)
    ]
    maximum = config.task_feature_lengths["targets"]
    if config.max_decode_length is not None:
        for name, table in longest:
            _say_longer(name, table, config.max_decode_length)
        return config
    tokens = max((int(table.target_lengths.max()) for _, table in longest), default=maximum)
    return dataclasses.replace(
        config, max_decode_length=min(-(-tokens // _MULTIPLE) * _MULTIPLE, maximum)
    )


def _label_tasks(source: Source) -> list[str]:
    """The tasks trained on that end in a label."""
    return [view.name for view in source.selection.views if view.task_id == methods.LABEL]


def _say_longer(task: str, table: TokenTable, max_decode_length: int) -> None:
    longer = int(np.sum(table.target_lengths > max_decode_length))
    if longer:
        say(
            f"MAX_DECODE_LENGTH = {max_decode_length}: {longer:,} of {table.n:,} training targets "
            f"of {task} have more tokens (up to {int(table.target_lengths.max())}); such answers "
            "are truncated when decoded; MAX_DECODE_LENGTH = None fits the longest"
        )


def truncated(config: TrainConfig, source: Source) -> Truncated:
    """Sequences longer than TASK_FEATURE_LENGTHS among a split's records, by split and task.

    The splits scored have the task that asks for the label alone; `targets` there are gold labels
    that the decoding length cannot hold.
    """
    file_split, rows = source.rows(registry.TRAIN, config)
    train = {}
    for view in source.selection.views:
        table = source.table(file_split, view)
        train[view.name] = _counts(table, rows, table.truncated["targets"])
    counts = {registry.TRAIN: train}
    view = source.selection.eval_view
    for split in (registry.VALIDATION, registry.TEST):
        file_split, rows = source.scored_rows(split, config)
        table = source.table(file_split, view)
        # One that was truncated has at least a token more.
        at_least = table.target_lengths + table.truncated["targets"]
        longer = at_least > (config.max_decode_length or 0)
        counts[split] = {view.name: _counts(table, rows, longer)}
    return counts


def _counts(table: TokenTable, rows: np.ndarray, long_targets: np.ndarray) -> dict[str, int]:
    return {
        "examples": len(rows),
        "inputs": int(np.sum(table.truncated["inputs"][rows])),
        "targets": int(np.sum(long_targets[rows])),
    }


def say_truncated(counts: Truncated, config: TrainConfig) -> None:
    """Prints a line per split and task with truncated sequences, or one that there are none.

    A warning where most inputs are.
    """
    lines = [
        f"{_mostly(numbers)}{split} {task}: {_in_words(split, numbers, config)}"
        for split, tasks in counts.items()
        for task, numbers in tasks.items()
        if numbers["inputs"] or numbers["targets"]
    ]
    for line in lines or ["truncated inputs and targets: none"]:
        say(line)


def _mostly(numbers: Mapping[str, int]) -> str:
    return "warning: " if 2 * numbers["inputs"] > numbers["examples"] else ""


def _in_words(split: str, numbers: Mapping[str, int], config: TrainConfig) -> str:
    lengths = config.task_feature_lengths
    targets = "targets truncated to" if split == registry.TRAIN else "gold labels longer than"
    most = lengths["targets"] if split == registry.TRAIN else config.max_decode_length
    parts = []
    if numbers["inputs"]:
        parts.append(f"{numbers['inputs']:,} inputs truncated to {lengths['inputs']} tokens")
    if numbers["targets"]:
        parts.append(f"{numbers['targets']:,} {targets} {most} tokens")
    return f"{', '.join(parts)}, of {numbers['examples']:,} examples"
