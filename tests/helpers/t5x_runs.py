"""MODEL_DIRs as upstream `t5x.train` leaves them with our gin files, made without T5X."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from sbs_jax.checkpoints import convert
from sbs_jax.configs import TrainConfig

# As T5X at cc342d4 begins config.gin; everything that a file of ours or of T5X's imports is there.
IMPORTS = """\
from __gin__ import dynamic_registration
import __main__ as train_script
from sbs_jax import configs
from sbs_jax.integrations import t5x_data
from sbs_jax.integrations import t5x_model
from sbs_jax.integrations import t5x_training
import sbs_jax.tasks
import seqio
from t5x import gin_utils
from t5x import partitioning
from t5x import trainer
from t5x import utils
"""
# What T5X's own files and ours for it bind, as far as it is read.
WIRING = {
    "train_script.train.model": "@t5x_model.Student()",
    "train_script.train.trainer_cls": "@t5x_training.Trainer",
    "train_script.train.total_steps": "%TRAIN_STEPS",
    "train/utils.DatasetConfig.mixture_or_task_name": "@t5x_data.mixture()",
    "train/utils.DatasetConfig.task_feature_lengths": "@t5x_data.train_lengths()",
    "infer_eval/utils.DatasetConfig.mixture_or_task_name": "@t5x_data.mixture()",
    "seqio.Evaluator.logger_cls": "[@seqio.PyLoggingLogger, @seqio.JSONLogger]",
    "model_dir/t5x_training.absolute.path": "%MODEL_DIR",
}
REFERRED = {
    "configs.TrainConfig.model_dir": "%MODEL_DIR",
    "configs.TrainConfig.mixture_or_task_name": "%MIXTURE_OR_TASK_NAME",
    "configs.TrainConfig.task_feature_lengths": "%TASK_FEATURE_LENGTHS",
    "configs.TrainConfig.train_steps": "%TRAIN_STEPS",
    "configs.TrainConfig.model": "%MODEL",
    "configs.TrainConfig.vocabulary": "%VOCABULARY",
    "configs.TrainConfig.optimizer": "@configs.OptimizerConfig()",
    "configs.TrainConfig.partitioner": "\\\n    @configs.PartitionerConfig()",
}
MACROS = {
    "USE_CACHED_TASKS": "False",
    "EVAL_STEPS": "20",
    "MODEL": "@configs.T5Config()",
    "PARTITIONER": "@partitioning.PjitPartitioner()",
}


def config_gin(
    config: TrainConfig, changes: Mapping[str, str | None] | None = None, imports: str = IMPORTS
) -> str:
    """What T5X writes for a run: all macros, then all bindings; values of over a line continued.

    Args:
        changes: other values, or None for what is left out, of macros and bindings.
    """
    macros = {**MACROS, "MODEL_DIR": repr(config.model_dir), "VOCABULARY": repr(config.vocabulary)}
    macros["TRAIN_STEPS"] = repr(config.train_steps)
    macros["MIXTURE_OR_TASK_NAME"] = repr(config.mixture_or_task_name)
    lengths = config.task_feature_lengths
    macros["TASK_FEATURE_LENGTHS"] = f"\\\n    {lengths!r}"
    ours = {
        **_fields("TrainConfig", config),
        **_fields("T5Config", config.model),
        **_fields("OptimizerConfig", config.optimizer),
        **_fields("PartitionerConfig", config.partitioner),
    }
    statements = {**macros, **ours, **REFERRED, **WIRING, **(changes or {})}
    lines = [f"{name} = {value}" for name, value in statements.items() if value is not None]
    return "\n".join([imports, "# Macros:", f"# {'=' * 78}", *lines, ""])


def _fields(kind: str, config: object) -> dict[str, str]:
    return {
        f"configs.{kind}.{field.name}": repr(getattr(config, field.name))
        for field in dataclasses.fields(config)  # type: ignore[arg-type]
    }


def make(folder: Path, ours: Path, config: TrainConfig, step: int) -> None:
    """Writes a run of ours as T5X would have left it: a legacy checkpoint and config.gin."""
    folder.mkdir(parents=True, exist_ok=True)
    convert.convert(str(ours), str(folder / f"checkpoint_{step}"), "t5x")
    (folder / "config.gin").write_text(config_gin(config))


def rows(path: Path) -> list[dict]:
    """The objects of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file in a folder."""
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
