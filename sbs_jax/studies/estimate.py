"""What a grid of runs will need: updates, arithmetic, time, memory and money."""

import dataclasses
import functools
import itertools
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.datasets import registry
from sbs_jax.datasets.methods import Prefixes
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import token_cache, vocabularies
from sbs_jax.models import costs
from sbs_jax.models.costs import FLOAT32, Shape
from sbs_jax.reporting import study_files
from sbs_jax.reporting.figures import size_name
from sbs_jax.studies.cells import Run
from sbs_jax.utils import jsonl
from sbs_jax.utils.console import duration

_SAMPLE = 256  # training questions whose lengths stand for all


@dataclasses.dataclass(frozen=True)
class Device:
    """What a run is estimated for.

    Attributes:
        tflops: 1e12 FLOP/s that training sustains; an A100 or a TPU v4 chip reaches about 100, a
            third to a half of its peak.
        price: of an hour, in the user's currency; None for no estimate.
    """

    tflops: float = 100.0
    price: float | None = None


def lines(folder: Path, runs: Sequence[Run], device: Device) -> Iterator[str]:
    """Sentences about all runs together."""
    updates = sum(run.config.train_steps for run in runs)
    most = sum(run.config.train_steps * rows_full(run.config) for run in runs)
    try:
        work = sum(run.config.train_steps * by_lengths(run.config) for run in runs)
        flops = f"about {work:.2g} FLOP by the data's lengths, at most {most:.2g} with rows full"
    except UserError:  # no data or no vocabulary yet
        work, flops = most, f"at most {most:.2g} FLOP (rows full; the data are not there yet)"
    hours = work / (device.tflops * 1e12) / 3600
    time = f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
    money = "" if device.price is None else f", {hours * device.price:.2f} at {device.price:g} each"
    yield (
        f"together {updates:,} updates, {flops}, evaluation left out: {time} device hours at "
        f"{device.tflops:g} TFLOP/s{money}"
    )
    yield _memory(runs)
    path = folder / study_files.STUDY_ROWS
    rows = [row for _, row in jsonl.objects(path)] if path.exists() else []
    seconds = sum(row.get("cpu_seconds") or 0.0 for row in rows)
    measured = sum(row.get("steps", 0) for row in rows if row.get("cpu_seconds"))
    if measured and seconds:
        left = updates * seconds / measured
        yield (
            f"measured in {len(rows)} rows: {seconds / measured:.2g} CPU-seconds an update, so "
            f"{duration(left)} CPU time for all"
        )


def _memory(runs: Sequence[Run]) -> str:
    largest = max((run.config for run in runs), key=lambda config: parameters(config.model))
    count = parameters(largest.model)
    # Parameters, gradients and two slots; Adafactor's are the rows' and columns' alone.
    copies = 2 if largest.optimizer.preset == "adafactor" else 4
    return (
        f"the largest model, about {size_name(count)} parameters with {largest.optimizer.preset}: "
        f"{copies * FLOAT32 * count / 1e9:.3g} GB on all devices together, activations left out "
        "(sbs train --dry_run plans them)"
    )


def rows_full(config: TrainConfig) -> float:
    """FLOP of an update whose rows are all as long as they may be."""
    limits = config.task_feature_lengths
    tasks = len(registry.resolve(config.mixture_or_task_name).views)
    return _flops(config, [(limits["inputs"], limits["targets"])] * tasks)


def by_lengths(config: TrainConfig) -> float:
    """FLOP of an update by the mean lengths of the first training questions.

    Raises:
        UserError: the records or the vocabulary are not there.
    """
    limits = config.task_feature_lengths
    limit = limits["inputs"], limits["targets"]
    lengths_of = (config.mixture_or_task_name, config.vocabulary, Prefixes.of(config), limit)
    return _flops(config, _mean_lengths(*lengths_of))


def _flops(config: TrainConfig, lengths: Sequence[tuple[float, float]]) -> float:
    """Of an update, every question bringing a row of each (inputs, targets)."""
    if config.shared_encoder:  # one row of the encoder, both targets in one of the decoder
        lengths = [(lengths[0][0], sum(targets for _, targets in lengths))]
    return float(
        sum(
            costs.flops(config.model, Shape(config.batch_size, round(i), round(t), 1, ""))
            for i, t in lengths
        )
    )


@functools.lru_cache(maxsize=32)
def _mean_lengths(
    name: str, vocabulary: str, prefixes: Prefixes, limit: tuple[int, int]
) -> list[tuple[float, float]]:
    """(Inputs, targets) of every view, in tokens with EOS, cut to the limit."""
    selection = registry.resolve(name)
    records = list(itertools.islice(selection.dataset.read(registry.TRAIN), _SAMPLE))
    loaded = vocabularies.load(vocabulary)
    means = []
    for view in selection.views:
        sides = zip(*(view.texts(record, prefixes) for record in records), strict=True)
        ids = (token_cache.encode_with_eos(loaded, side) for side in sides)
        inputs, targets = (
            statistics.fmean(min(len(i), most) for i in of_side)
            for of_side, most in zip(ids, limit, strict=True)
        )
        means.append((inputs, targets))
    return means


def parameters(model: T5Config) -> int:
    """Weights of the matrices: all but norms and position biases."""
    attention = 4 * model.emb_dim * model.num_heads * model.head_dim
    mlp = (1 + len(model.mlp_activations)) * model.emb_dim * model.mlp_dim
    tables = (1 if model.logits_via_embedding else 2) * model.vocab_size * model.emb_dim
    layers = model.num_encoder_layers * (attention + mlp)
    return layers + model.num_decoder_layers * (2 * attention + mlp) + tables
