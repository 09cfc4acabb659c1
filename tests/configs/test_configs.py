"""A run's configuration refuses what cannot work, naming the macro."""

import dataclasses
import pathlib
import re
import subprocess
import sys

import pytest

from sbs_jax.configs import (
    OptimizerConfig,
    PartitionerConfig,
    StudyConfig,
    T5Config,
    TrainConfig,
    training,
    validation,
)
from sbs_jax.configs.model import ACTIVATIONS
from sbs_jax.distributed import partitioning
from sbs_jax.errors import UserError
from sbs_jax.models import layers
from sbs_jax.utils import paths

ROOT = pathlib.Path(__file__).resolve().parents[2]
KINDS = (TrainConfig, T5Config, OptimizerConfig, PartitionerConfig, StudyConfig)

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
        (CONFIG, {"task_feature_lengths": {"inputs": 8, "targets": 8, "x": 8}}, "alone"),
        (CONFIG, {"task_feature_lengths": {"inputs": 8, "target": 8}}, "alone"),
        (CONFIG, {"keep_best": 0}, "keep_best = 0: must be a whole number above 0"),
        (CONFIG, {"checkpoint_period": 0}, "CHECKPOINT_PERIOD = 0: must be a whole number above 0"),
        (CONFIG, {"log_period": 0}, r"TrainConfig\.log_period = 0: must be a whole number above 0"),
        (CONFIG, {"eval_batch_size": 0}, r"TrainConfig\.eval_batch_size = 0: must be a whole"),
        (CONFIG, {"eval_num_examples": 0}, "EVALUATOR_NUM_EXAMPLES = 0: must be a whole number"),
        (CONFIG, {"eval_num_examples": -5}, "EVALUATOR_NUM_EXAMPLES = -5: must be a whole number"),
        (CONFIG, {"max_decode_length": 0}, "MAX_DECODE_LENGTH = 0: must be a whole"),
        (CONFIG, {"random_seed": -1}, r"RANDOM_SEED = -1: must be from 0 to below 2\*\*32"),
        (CONFIG, {"row_lengths": (8, 0)}, r"row_lengths = \(8, 0\): must be .* both above 0"),
        (CONFIG, {"alpha": float("nan")}, "ALPHA = nan: must be a number"),
        (CONFIG, {"on_nonfinite": "ignore"}, "must be 'stop', 'skip' or 'reduce'"),
        (MODEL, {"num_heads": 0}, r"T5Config\.num_heads = 0: must be a whole number above 0"),
        (MODEL, {"num_decoder_layers": 0}, r"T5Config\.num_decoder_layers = 0: must be a whole"),
        (MODEL, {"mlp_activations": ("swish",)}, "one or two of gelu, relu, linear"),
        (MODEL, {"mlp_activations": ()}, "one or two of gelu, relu, linear"),
        (MODEL, {"remat_policy": "some"}, "REMAT_POLICY = 'some': must be one of none, minimal"),
        (MODEL, {"param_dtype": "int8"}, "PARAM_DTYPE = 'int8': must be float32 or bfloat16"),
        (OptimizerConfig(), {"preset": "adam"}, "OPTIMIZER = 'adam': must be one of adamw"),
        (OptimizerConfig(), {"factors": "linear_warmup"}, "a product with one base rate, constant"),
        (OptimizerConfig(), {"factors": "linear_warmup * cosine_decay"}, "one base rate"),
        (OptimizerConfig(), {"factors": "rsqrt_decay"}, "one base rate"),
        (OptimizerConfig(), {"factors": "constant * linear_decay"}, "one base rate"),
        (OptimizerConfig(), {"factors": "constant * constant"}, "one base rate"),
        (OptimizerConfig(), {"steps_per_cycle": 0}, "steps_per_cycle = 0"),
        (OptimizerConfig(), {"learning_rate": 0.0}, r"LEARNING_RATE = 0\.0"),
        (OptimizerConfig(), {"factors": "constant * linear"}, "FACTORS = 'linear': must be const"),
        (OptimizerConfig(), {"b2": 2.0}, r"ADAM_B2 = 2\.0: must be from 0 to below 1"),
        (OptimizerConfig(), {"clip_norm": -1.0}, r"clip_norm = -1\.0: must be 0 or more"),
        (PartitionerConfig(), {"fsdp": 0}, "fsdp = 0: must be a whole number above 0"),
        (
            PartitionerConfig(),
            {"logical_axis_rules": (("mlp", "modle"),)},
            r"logical_axis_rules = \('mlp', 'modle'\): must be .* one of data, fsdp, model or None",
        ),
        (
            PartitionerConfig(),
            {"logical_axis_rules": (("mpl", None),)},
            r"logical_axis_rules = \('mpl', None\): must be .* LOGICAL_AXIS one of batch, vocab",
        ),
        (MODEL, {"dtype": "float16"}, "DTYPE = 'float16': must be float32 or bfloat16"),
        (MODEL, {"dropout_rate": 1.0}, r"DROPOUT_RATE = 1\.0"),
    ],
)
def test_what_cannot_work_names_its_macro(config, changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, **changes)


def test_equal_values_of_other_types_hash_alike_for_jit():
    """In a process of its own: under pytest the types of a dataclass are checked before."""
    code = (
        "import sys; from sbs_jax.configs import PartitionerConfig as P, T5Config as T; "
        "size = 8, 8, 1, 1, 1, 8, 8; "
        "print(hash(T(*size, ['relu'], 0)) == hash(T(*size, ('relu',), 0.0))); "
        "print(repr(T(*size, dropout_rate=0).dropout_rate)); "
        "print(P(logical_axis_rules=[['mlp', None]]).logical_axis_rules, 'jax' in sys.modules)"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.splitlines() == ["True", "0.0", "(('mlp', None),) False"]


def test_the_names_of_activations_are_those_of_the_layers():
    assert set(ACTIVATIONS) == set(layers._ACTIVATIONS)


def test_the_axes_of_every_parameter_have_rules():
    known = dict(training.DEFAULT_RULES)
    assert {axis for axes in partitioning.PARAM_AXES.values() for axis in axes} <= known.keys()


def test_errors_name_the_macros_of_the_gin_files():
    bound: dict[str, str] = {}
    for path in sorted(paths.gin_dir().rglob("*.gin")):
        if "t5x" not in path.relative_to(paths.gin_dir()).parts[1]:
            bound.update(re.findall(r"^  (\w+) = %([A-Z]\w*)$", path.read_text(), re.M))
    known = {field.name for kind in KINDS for field in dataclasses.fields(kind)}
    found = {name: macro for name, macro in bound.items() if name in known}
    assert found.pop("vocab_size") == "VOCAB_SIZE"  # the demo's models only
    macros = validation.macros(*KINDS)
    assert found.items() <= macros.items()
    assert macros.keys() - found.keys() <= {"model"}  # a model file sets it
