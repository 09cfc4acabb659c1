"""Under T5X: what the wiring would ignore is refused, naming the setting that has an effect."""

import pathlib
import re

import pytest

from sbs_jax.configs import gin_scanner
from sbs_jax.errors import UserError
from sbs_jax.utils import paths

pytest.importorskip("t5x", reason="needs upstream T5X (docs/t5x.md)")

from sbs_jax.integrations import t5x_settings

GIN = paths.gin_dir()
SEARCH_PATHS = [str(GIN / "engines" / "t5x"), str(GIN)]


def check(folder: pathlib.Path, text: str, *bindings: str) -> None:
    """As a launch with a user's file over an experiment."""
    (folder / "over.gin").write_text(f"include 'experiments/demo_step_by_step.gin'\n{text}\n")
    given = ["MODEL_DIR = 'x'", *bindings]
    t5x_settings.check(gin_scanner.scan([str(folder / "over.gin")], given, SEARCH_PATHS))


REFUSED = [
    ("trainer.Trainer.num_microbatches = 2", "set PartitionerConfig.num_microbatches instead"),
    ("PjitPartitioner.num_partitions = 2", "set PartitionerConfig.num_partitions instead"),
    ("utils.create_learning_rate_scheduler.warmup_steps = 9", "set WARMUP_STEPS instead"),
    ("utils.create_learning_rate_scheduler.base_learning_rate = 0.5", "set LEARNING_RATE instead"),
    ("models.EncoderDecoderModel.label_smoothing = 0.1", "plain mean over tokens"),
    ("models.EncoderDecoderModel.z_loss = 0.1", "plain mean over tokens"),
    ("adafactor.Adafactor.decay_rate = 0.8", 'OPTIMIZER = "adafactor"'),
    ("network.T5Config.dtype = 'bfloat16'", "set T5Config.dtype instead"),
    ("LABEL_SMOOTHING = 0.1", "nothing uses the macro LABEL_SMOOTHING"),
    ("Z_LOSS = 0.1", "nothing uses the macro Z_LOSS"),
    ("LOSS_NORMALIZING_FACTOR = 1.0", "nothing uses the macro LOSS_NORMALIZING_FACTOR"),
    ("ALPAH = 0.9", "nothing uses the macro ALPAH; did you mean ALPHA?"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_setting_without_effect_is_refused(tmp_path, line, words):
    with pytest.raises(UserError) as error:
        check(tmp_path, line)
    assert re.search(rf"over\.gin:2: .*{re.escape(words)}", str(error.value))
    with pytest.raises(UserError) as error:
        check(tmp_path, "", line)
    assert re.search(rf"--gin\.[\w.]+: .*{re.escape(words)}", str(error.value))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "EVAL_STEPS = 4",
        "USE_CACHED_TASKS = True",
        "train/utils.DatasetConfig.batch_size = 4",
        "utils.SaveCheckpointConfig.keep = 3",
        "train_script.train.stats_period = 7",
        "trainer.Trainer.num_microbatches = None",
        "models.EncoderDecoderModel.z_loss = 0.0",
        "t5x_training.Partitioner.parameter_partitioning_dims = 2",
        "configs.PartitionerConfig.num_microbatches = 2",
        "configs.T5Config.dtype = 'bfloat16'",
        "EVALUATOR_USE_MEMORY_CACHE = False",
    ],
)
def test_what_has_an_effect_or_changes_nothing_is_accepted(tmp_path, line):
    check(tmp_path, line)


@pytest.mark.parametrize("run", ["t5x", "t5x_eval", "t5x_infer"])
@pytest.mark.parametrize("path", sorted((GIN / "experiments").glob("*.gin")), ids=lambda p: p.stem)
def test_every_experiment_is_accepted(path, run):
    folders = [str(GIN / "engines" / run), str(GIN)]
    t5x_settings.check(gin_scanner.scan([str(path)], ["MODEL_DIR = 'x'"], folders))
