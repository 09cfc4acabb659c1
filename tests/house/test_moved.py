"""Names of modules from before the packages still work, in Python and in old config.gin files."""

import importlib
import subprocess
import sys

import pytest

from sbs_jax.configs import gin_loader
from sbs_jax.moved import MOVED
from sbs_jax.utils import paths

# config.gin of a demonstration's run, as written by the code before the modules moved; the sizes
# of the network, which are equal in every version, are left out.
OLD_CONFIG = """
from __gin__ import dynamic_registration
from sbs_jax import configs
from sbs_jax import demo

MODEL_DIR = 'out/runs/a'

configs.TrainConfig:
  model_dir = %MODEL_DIR
  mixture_or_task_name = @demo.registered()
  task_feature_lengths = {'inputs': 32, 'targets': 32}
  train_steps = 1000
  model = @configs.T5Config()
  vocabulary = 'demo'
  optimizer = @configs.OptimizerConfig()
  partitioner = @configs.PartitionerConfig()
  row_lengths = (24, 8)
  on_nonfinite = 'stop'

configs.T5Config:
  vocab_size = 256
  emb_dim = 64
  num_heads = 4
  num_encoder_layers = 2
  num_decoder_layers = 2
  head_dim = 16
  mlp_dim = 256
  mlp_activations = ('relu',)
  dropout_rate = 0.1
  logits_via_embedding = True

configs.OptimizerConfig:
  preset = 'adamw'
  learning_rate = 0.003
  b2 = 0.99

configs.PartitionerConfig:
  num_partitions = 1

demo.registered.out = 'out'
demo.registered.seed = 7
demo.registered.method = 'finetune'
"""
# These import TensorFlow or T5X, so only the existence of the new module is checked.
HEAVY = {"seqio_tasks", "tfds_builder", "engines.t5x_data", "engines.t5x_model"}
HEAVY |= {"engines.t5x_training"}


def test_an_old_config_gin_loads(tmp_path):
    (tmp_path / "config.gin").write_text(OLD_CONFIG, encoding="utf-8")
    found = gin_loader.load([str(tmp_path / "config.gin")], [])
    config = gin_loader.build("configs.TrainConfig", found)
    assert config.mixture_or_task_name == "demo_seed7_finetune"
    assert config.model_dir == "out/runs/a" and config.row_lengths == (24, 8)


def test_a_config_loads_by_the_new_and_the_old_name_in_one_process(tmp_path):
    (tmp_path / "new.gin").write_text(
        OLD_CONFIG.replace("sbs_jax import demo", "sbs_jax.studies import demo")
    )
    (tmp_path / "old.gin").write_text(OLD_CONFIG)
    new, old = (
        gin_loader.build("configs.TrainConfig", gin_loader.load([str(tmp_path / name)], []))
        for name in ("new.gin", "old.gin")
    )
    assert new == old


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_is_the_module_itself(old):
    new = f"sbs_jax.{MOVED[old]}"
    if old in HEAVY:
        assert importlib.util.find_spec(new)
        return
    module = importlib.import_module(f"sbs_jax.{old}")
    assert module is importlib.import_module(new)
    assert module.__spec__.name == module.__name__ == new


def test_old_names_work_in_every_form_of_import():
    code = (
        "from sbs_jax import demo_data; import sbs_jax.views; from sbs_jax.records import Record; "
        "from sbs_jax.datasets import demo, methods, records; "
        "print(demo_data is demo, sbs_jax.views is methods, Record is records.Record)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.split() == ["True"] * 3, answer.stderr


@pytest.mark.parametrize("statement", ["import sbs_jax.tasks", "from sbs_jax.tasks import svamp"])
def test_a_checkout_that_hides_an_installed_wheel_has_its_tasks(statement):
    """As `python -m t5x.train` in the checkout's root: no editable finder, its root on the path."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.meta_path = "
        "[f for f in sys.meta_path if getattr(f, '__name__', '') != '_EditableFinder']; "
        f"{statement}; from sbs_jax.datasets import registry; from sbs_jax.utils import paths; "
        "print('svamp' in registry.names(), (paths.gin_dir() / 'experiments').is_dir())"
    )
    command = [sys.executable, "-c", code, str(paths.gin_dir().parent)]
    answer = subprocess.run(command, capture_output=True, text=True)
    assert answer.stdout.split() == ["True", "True"], answer.stderr


def test_a_name_that_never_was_stays_unknown():
    with pytest.raises(ModuleNotFoundError, match=r"sbs_jax\.viewz"):
        importlib.import_module("sbs_jax.viewz")
