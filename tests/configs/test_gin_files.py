"""The packaged gin files: sizes are what their heads say, experiments hold macros only."""

import math
import re

import jax
import pytest

from sbs_jax.configs import gin_loader
from sbs_jax.models import t5
from sbs_jax.utils import paths

MODELS = sorted((paths.gin_dir() / "sbs_models").glob("*.gin"))
EXPERIMENTS = sorted((paths.gin_dir() / "experiments").glob("*.gin"))
PUBLISHED = {"t5_1_1_small": 77e6, "t5_1_1_base": 248e6, "t5_1_0_base": 223e6, "mt5_xxl": 12.9e9}


def config_of(*files: str) -> object:
    bindings = ["MODEL_DIR = 'x'", "VOCABULARY = 'demo'"]
    return gin_loader.build("configs.TrainConfig", gin_loader.load(files, bindings))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_file_has_the_parameters_its_head_tells(path):
    config = config_of("experiments/demo_finetune.gin", f"sbs_models/{path.name}")
    shapes = jax.eval_shape(lambda: t5.init_params(config.model, jax.random.key(0)))
    counted = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    if told := re.search(r"([\d,]{6,}) parameters", path.read_text(encoding="utf-8")):
        assert int(told[1].replace(",", "")) == counted
    else:
        base = path.stem.replace("flan_t5", "t5_1_1")
        assert base != path.stem and f"include 'sbs_models/{base}.gin'" in path.read_text()
    if path.stem in PUBLISHED:
        assert counted == pytest.approx(PUBLISHED[path.stem], rel=0.01)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_holds_includes_imports_and_macros_only(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line and not line.startswith("#")]
    assert all(
        re.fullmatch(r"include '.*\.gin'|import sbs_jax\.tasks|[A-Z_]+ = .*", line) for line in code
    )
    assert f"--gin_file=experiments/{path.name}" in path.read_text(), "its head tells the command"
    assert config_of(f"experiments/{path.name}").mixture_or_task_name == path.stem


@pytest.mark.parametrize("name", ["esnli", "anli1", "cqa", "svamp"])
def test_the_papers_settings_are_the_released_codes(name):
    config = config_of(f"experiments/{name}_step_by_step.gin")
    assert (config.batch_size, config.train_steps, config.alpha) == (64, 10000, 0.5)
    assert config.task_feature_lengths == {"inputs": 1024, "targets": 256}
    assert config.max_decode_length == 63  # generation_max_length 64 counts the start token
    optimizer = config.optimizer
    assert (optimizer.preset, optimizer.learning_rate) == ("adamw_hf", 5e-5)
    assert (optimizer.clip_norm, optimizer.weight_decay, optimizer.warmup_steps) == (1.0, 0.0, 0)
    assert (optimizer.factors, optimizer.end_factor) == ("linear_decay", 0.0)
