"""What gin binds: plain dataclasses, checked; reading and writing gin files."""

from sbs_jax.configs.training import (
    OptimizerConfig,
    PartitionerConfig,
    StudyConfig,
    T5Config,
    TrainConfig,
)

__all__ = ["OptimizerConfig", "PartitionerConfig", "StudyConfig", "T5Config", "TrainConfig"]
