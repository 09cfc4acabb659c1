"""What a grid of runs will need: updates, arithmetic, and time where it was measured."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sbs_jax.configs import StudyConfig, T5Config, TrainConfig
from sbs_jax.datasets import registry
from sbs_jax.reporting import study_files
from sbs_jax.studies.cells import Run
from sbs_jax.utils import jsonl
from sbs_jax.utils.console import duration

_SUSTAINED = 100e12  # FLOP/s: an A100 or a TPU v4 chip at about a third to a half of its peak


def lines(config: StudyConfig, runs: Sequence[Run]) -> Iterator[str]:
    """Sentences about all runs together."""
    updates = sum(run.config.train_steps for run in runs)
    work = sum(flops(run.config) for run in runs)
    hours = work / _SUSTAINED / 3600
    yield (
        f"together {updates:,} updates, at most {work:.2g} FLOP (rows full, evaluation left out): "
        f"{hours:.2g} hours at {_SUSTAINED / 1e12:.0f} TFLOP/s"
    )
    path = Path(config.study_dir) / study_files.STUDY_ROWS
    rows = [row for _, row in jsonl.objects(path)] if path.exists() else []
    seconds = sum(row.get("cpu_seconds") or 0.0 for row in rows)
    measured = sum(row.get("steps", 0) for row in rows if row.get("cpu_seconds"))
    if measured and seconds:
        left = updates * seconds / measured
        yield (
            f"measured in {len(rows)} rows: {seconds / measured:.2g} CPU-seconds an update, so "
            f"{duration(left)} CPU time for all"
        )


def flops(config: TrainConfig) -> float:
    """Of a run's matrix products, forward and backward, every row as long as it may be."""
    tasks = len(registry.resolve(config.mixture_or_task_name).views)
    lengths = config.task_feature_lengths
    encoder, decoder = _weights(config.model)
    per_row = encoder * lengths["inputs"] + decoder * lengths["targets"]
    return 6.0 * per_row * config.batch_size * tasks * config.train_steps


def _weights(model: T5Config) -> tuple[int, int]:
    """(encoder, decoder) weights that every token meets; 2 FLOPs each, and twice that backwards."""
    attention = 4 * model.emb_dim * model.num_heads * model.head_dim
    mlp = (1 + len(model.mlp_activations)) * model.emb_dim * model.mlp_dim
    encoder = model.num_encoder_layers * (attention + mlp)
    logits = model.emb_dim * model.vocab_size
    return encoder, model.num_decoder_layers * (2 * attention + mlp) + logits
