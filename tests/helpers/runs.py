"""Tiny runs on the embedded dataset: the one tiny model, its configuration, what a run left."""

import json
from pathlib import Path

import numpy as np

import sbs_jax.tasks  # noqa: F401 - registers the embedded dataset, in child processes too
from sbs_jax.checkpoints.manager import CheckpointManager
from sbs_jax.configs import OptimizerConfig, T5Config, TrainConfig
from sbs_jax.distributed.partitioning import Partitioner

MODEL = T5Config(
    vocab_size=256,
    emb_dim=16,
    num_heads=2,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=32,
    dropout_rate=0.1,
)


def config_of(model_dir: Path, **changes: object) -> TrainConfig:
    settings = {
        "model_dir": str(model_dir),
        "mixture_or_task_name": "demo_step_by_step",
        "task_feature_lengths": {"inputs": 32, "targets": 32},
        "train_steps": 12,
        "model": MODEL,
        "vocabulary": "demo",
        "optimizer": OptimizerConfig(learning_rate=1e-2),
        "batch_size": 8,
        "eval_period": 4,
        "eval_num_examples": 20,
        "max_decode_length": 4,
        "log_period": 2,
        "row_lengths": (24, 24),
    }
    return TrainConfig(**{**settings, **changes})


def trained(model_dir: Path, **changes: object) -> Path:
    """Trains `config_of` these; returns the MODEL_DIR."""
    from sbs_jax.training import trainer

    trainer.train(config_of(model_dir, **changes))
    return model_dir


def metrics_of(model_dir: Path) -> list[dict]:
    lines = (model_dir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


def final_params(model_dir: Path, model: T5Config = MODEL) -> list[np.ndarray]:
    import jax

    from sbs_jax.training import optimizers, schedules, train_step

    rate = schedules.create_learning_rate_scheduler(total_steps=1)
    optimizer = optimizers.create_optimizer("adamw", rate)
    shapes = train_step.abstract_state(model, optimizer, Partitioner())
    with CheckpointManager(model_dir / "checkpoints", read_only=True) as store:
        state = store.restore_latest(shapes)
    return jax.tree.leaves(jax.device_get(state.params))
