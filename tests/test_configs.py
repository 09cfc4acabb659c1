"""A run's configuration refuses what cannot work, naming the macro."""

import dataclasses

import pytest

from sbs_jax.configs import OptimizerConfig, PartitionerConfig, T5Config, TrainConfig
from sbs_jax.errors import UserError

MODEL = T5Config(
    vocab_size=128,
    emb_dim=8,
    num_heads=1,
    num_encoder_layers=1,
    num_decoder_layers=1,
    head_dim=8,
    mlp_dim=8,
)
CONFIG = TrainConfig(
    model_dir="x",
    mixture_or_task_name="demo_finetune",
    task_feature_lengths={"inputs": 8, "targets": 8},
    train_steps=1,
    model=MODEL,
    vocabulary="demo",
)


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (CONFIG, {"alpha": 1.5}, r"ALPHA = 1\.5: must be from 0 to 1"),
        (CONFIG, {"data_fraction": 0.0}, r"DATA_FRACTION = 0\.0: must be above 0"),
        (CONFIG, {"batch_size": 0}, "BATCH_SIZE = 0: must be a whole number above 0"),
        (CONFIG, {"train_steps": -1}, "TRAIN_STEPS = -1: must be a whole number above 0"),
        (CONFIG, {"task_feature_lengths": {"inputs": 8}}, "TASK_FEATURE_LENGTHS = "),
        (CONFIG, {"task_feature_lengths": {"inputs": 8, "targets": 1}}, "both above 1"),
        (CONFIG, {"keep_best": 0}, "keep_best = 0: must be a whole number above 0"),
        (CONFIG, {"on_nonfinite": "ignore"}, "must be 'stop', 'skip' or 'reduce'"),
        (MODEL, {"remat_policy": "some"}, "REMAT_POLICY = 'some': must be one of none, minimal"),
        (MODEL, {"scan_layers": True}, "REMAT_POLICY = 'none': must be minimal or full with SCAN"),
        (MODEL, {"param_dtype": "int8"}, "PARAM_DTYPE = 'int8': must be float32 or bfloat16"),
        (OptimizerConfig(), {"preset": "adam"}, "OPTIMIZER = 'adam': must be one of adamw"),
        (OptimizerConfig(), {"learning_rate": 0.0}, r"LEARNING_RATE = 0\.0"),
        (OptimizerConfig(), {"factors": "constant * linear"}, "FACTORS = 'linear': must be const"),
        (PartitionerConfig(), {"fsdp": 0}, "fsdp = 0: must be a whole number above 0"),
        (
            PartitionerConfig(),
            {"logical_axis_rules": (("mlp", "modle"),)},
            r"logical_axis_rules = \('mlp', 'modle'\): must be .* one of data, fsdp, model or None",
        ),
        (MODEL, {"dtype": "float16"}, "DTYPE = 'float16': must be float32 or bfloat16"),
        (MODEL, {"dropout_rate": 1.0}, r"DROPOUT_RATE = 1\.0"),
    ],
)
def test_what_cannot_work_names_its_macro(config, changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, **changes)


def test_a_list_of_activations_becomes_a_tuple_so_that_jit_can_hash_it():
    hash(dataclasses.replace(MODEL, mlp_activations=("relu",)))
