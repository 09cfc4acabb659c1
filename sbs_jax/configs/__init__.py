"""What gin binds: plain dataclasses, checked; reading and writing gin files."""

from sbs_jax.configs.model import T5Config
from sbs_jax.configs.study import StudyConfig
from sbs_jax.configs.training import OptimizerConfig, PartitionerConfig, TrainConfig

__all__ = ["OptimizerConfig", "PartitionerConfig", "StudyConfig", "T5Config", "TrainConfig"]
