"""Prints a run's parameters, batch, example and phases before its first step."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from sbs_jax.datasets import registry
from sbs_jax.evaluation import lengths
from sbs_jax.input_pipeline.pipeline import Source
from sbs_jax.input_pipeline.vocabularies import encode_text
from sbs_jax.training.learning_rates import learning_rates
from sbs_jax.training.phases import Phases
from sbs_jax.training.preparation import Run
from sbs_jax.training.train_step import TrainState
from sbs_jax.utils.console import say

_GIB = 2**30
_TOKENS_SHOWN = 24
_LAYER = re.compile(r"layers_\d+")


def introduce(
    run: Run, state: TrainState, jitted: Any, shapes: TrainState, first: int, phases: Phases
) -> Callable[[TrainState, dict], tuple]:
    """Prints the summary, and compiles the train step for the first batch.

    Args:
        shapes: of the state that the step takes; `state` may be laid out otherwise.

    Returns:
        The train step; a batch of another shape compiles it once more.
    """
    config = run.config
    lengths.say_truncated(run.truncated, config)
    if first >= config.train_steps:
        return jitted
    say(str(run.batches.plan))
    batch = run.partitioner.put_batch(run.batches[first])
    for line in (
        *parameter_table(state.params),
        *batch_spec(batch),
        *example(run.source),
        learning_rates(config),
    ):
        say(line)
    programs: dict[tuple, Any] = {}

    def update(state: TrainState, batch: dict[str, jax.Array]) -> tuple:
        shape = tuple(array.shape for array in batch.values())
        if shape not in programs:
            programs[shape] = _compile(jitted, shapes, batch)
        return programs[shape](*jitted.args, state, batch)

    programs[tuple(array.shape for array in batch.values())] = _compile(jitted, shapes, batch)
    phases.end("compile")
    return update


def _compile(jitted: Any, shapes: TrainState, batch: dict[str, jax.Array]) -> Any:
    """The program for batches of this shape; prints seconds and memory."""
    start = time.monotonic()
    compiled = jitted.func.lower(*jitted.args, shapes, batch).compile()
    rows, inputs = batch["encoder_input_tokens"].shape
    targets = batch["decoder_target_tokens"].shape[1]
    say(
        f"train step for {rows}x{inputs}/{targets} compiled in {time.monotonic() - start:.1f} s; "
        f"{memory(compiled)}"
    )
    return compiled


def parameter_table(params: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a table: parameters by module, the layers of a stack in one row each.

    Args:
        params: nested dict of arrays.
    """
    rows: dict[tuple, list[int]] = {}
    total = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = "/".join(str(key.key) for key in path)
        kind = (_LAYER.sub("layers", name), leaf.shape, str(leaf.dtype), _axes(leaf))
        number = rows.setdefault(kind, [0, 0])
        number[0] += 1
        number[1] += leaf.size
        total += leaf.size
    yield f"{'parameters':<52}{'arrays':>7}{'count':>16}  dtype     shape, mesh axes"
    for (name, shape, dtype, axes), (arrays, count) in rows.items():
        yield f"  {name:<50}{arrays:>7}{count:>16,}  {dtype:<9} {shape} {axes}"
    yield f"  {'all':<50}{sum(n for n, _ in rows.values()):>7}{total:>16,}"


def _axes(leaf: Any) -> str:
    """The mesh axes an array is split over; "whole" for none."""
    mesh = leaf.sharding.mesh.shape
    axes = [
        axis
        for entry in leaf.sharding.spec
        for axis in ((entry,) if isinstance(entry, str) else entry or ())
        if mesh[axis] > 1
    ]
    return " x ".join(axes) or "whole"


def batch_spec(batch: Mapping[str, jax.Array]) -> Iterator[str]:
    """Lines for the arrays of a batch: shape, dtype and devices over which rows are split."""
    for name, array in batch.items():
        rows = array.sharding.shard_shape(array.shape)[0]
        yield f"batch {name:<24} {array.dtype} {array.shape}, {rows} rows per device"


def example(source: Source) -> Iterator[str]:
    """Lines for the first training record that has all tasks: raw, prefixed, tokens."""
    views = source.selection.views
    for record in source.selection.dataset.read(registry.TRAIN):
        texts = [view.texts(record, source.prefixes) for view in views]
        if all(targets is not None for _, targets in texts):
            break
    else:
        return
    yield f"example {record.id}: {_short(record.input)}"
    for view, (inputs, targets) in zip(views, texts, strict=True):
        yield f"  {view.name} inputs   {_short(inputs)}"
        yield f"  {view.name} inputs   {_tokens(source, inputs)}"
        yield f"  {view.name} targets  {_short(str(targets))}"
        yield f"  {view.name} targets  {_tokens(source, str(targets))}"


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]} ...")


def _tokens(source: Source, text: str) -> str:
    ids = [*encode_text(source.vocabulary, text), source.vocabulary.eos_id]
    shown = ids[:_TOKENS_SHOWN]
    pieces = zip(source.vocabulary.pieces(shown), shown, strict=True)
    more = f" ... {len(ids) - len(shown)} more" if len(ids) > len(shown) else ""
    return f"{len(ids)} tokens: {' '.join(f'{piece}:{i}' for piece, i in pieces)}{more}"


def memory(compiled: Any) -> str:
    """XLA's account of the compiled step's memory, per device."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return "XLA does not report its memory"
    state, work = analysis.argument_size_in_bytes, analysis.temp_size_in_bytes
    return (
        f"per device {state / _GIB:.3f} GiB of state and batch, {work / _GIB:.3f} GiB of gradients "
        "and activations"
    )
