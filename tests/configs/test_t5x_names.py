"""T5X's names of settings: honoured, neutral, or refused with the name of ours; never ignored."""

import dataclasses
import re

import pytest

from sbs_jax import configs
from sbs_jax.configs import gin_loader, t5x_names, validation
from sbs_jax.errors import UserError

EXPERIMENT = "include 'experiments/demo_finetune.gin'\n"
CLASSES = (
    configs.TrainConfig,
    configs.T5Config,
    configs.OptimizerConfig,
    configs.PartitionerConfig,
)


def config_of(tmp_path, text: str = "", bindings: tuple[str, ...] = ()) -> configs.TrainConfig:
    """A demonstration's configuration under the lines of a user's file, and bindings."""
    path = tmp_path / "over.gin"
    path.write_text(EXPERIMENT + text, encoding="utf-8")
    found = gin_loader.load([str(path)], ["MODEL_DIR = 'x'", *bindings])
    return gin_loader.build("configs.TrainConfig", found)


HONOURED = [
    ("utils.SaveCheckpointConfig.period = 70", "checkpoint_period", 70),
    ("utils.SaveCheckpointConfig.keep = 3", "keep_latest", 3),
    ("train.eval_period = 70", "eval_period", 70),
    ("train_script.train.random_seed = 7", "random_seed", 7),
    ("train.total_steps = 70", "train_steps", 70),
    ("train.stats_period = 7", "log_period", 7),
    ("train/utils.DatasetConfig.batch_size = 7", "batch_size", 7),
    ("train/utils.DatasetConfig.pack = False", "pack", False),
    ("utils.DatasetConfig.pack = False", "pack", False),
    ("DatasetConfig.batch_size = 7", "batch_size", 7),
    ("utils.DatasetConfig.seed = 7", "random_seed", 7),
    ("infer_eval/utils.DatasetConfig.batch_size = 7", "eval_batch_size", 7),
    ("partitioning.PjitPartitioner.num_partitions = 2", "partitioner.num_partitions", 2),
    ("PjitPartitioner.num_partitions = 2", "partitioner.num_partitions", 2),
    ("trainer.Trainer.num_microbatches = 2", "partitioner.num_microbatches", 2),
    ("Trainer.num_microbatches = None", "partitioner.num_microbatches", 1),
    ("utils.create_learning_rate_scheduler.warmup_steps = 7", "optimizer.warmup_steps", 7),
    (
        "utils.create_learning_rate_scheduler.base_learning_rate = 0.5",
        "optimizer.learning_rate",
        0.5,
    ),
    ("utils.create_learning_rate_scheduler.factors = 'constant'", "optimizer.factors", "constant"),
    ("network.T5Config.dtype = 'bfloat16'", "model.dtype", "bfloat16"),
    ("seqio.Evaluator.num_examples = 7", "eval_num_examples", 7),
    ("SEED = 7", "random_seed", 7),
    ("TRAIN_STEPS_RELATIVE = 70", "train_steps", 70),
    ("INFER_EVAL_BATCH_SIZE = 7", "eval_batch_size", 7),
    ("Z_LOSS = 0.0", "alpha", 0.5),
    ("EVAL_STEPS = None", "alpha", 0.5),
    ("models.EncoderDecoderModel.label_smoothing = 0.0", "alpha", 0.5),
    ("train/utils.DatasetConfig.shuffle = True", "alpha", 0.5),
]


@pytest.mark.parametrize("place", ["file", "flag"])
@pytest.mark.parametrize(("line", "field", "value"), HONOURED, ids=[row[0] for row in HONOURED])
def test_a_setting_with_a_counterpart_is_honoured(tmp_path, place, line, field, value):
    config = config_of(tmp_path, line) if place == "file" else config_of(tmp_path, "", (line,))
    for name in field.split("."):
        config = getattr(config, name)
    assert config == value


def test_an_override_file_with_blocks_comments_and_imports_needs_no_t5x(tmp_path):
    text = """
import __main__ as train_script
from t5x import utils
from t5x import partitioning

train_script.train:
  eval_period = %EVAL_PERIOD
  stats_period = 7  # more often

utils.SaveCheckpointConfig:  # fewer
  # of them
  period = 70

  keep = 2
  save_dataset = False

EVAL_PERIOD = 80
TASK_FEATURE_LENGTHS = {
  "inputs": 16,
  "targets": 8,
}
"""
    config = config_of(tmp_path, text)
    assert (config.eval_period, config.log_period) == (80, 7)
    assert (config.checkpoint_period, config.keep_latest) == (70, 2)
    assert config.task_feature_lengths == {"inputs": 16, "targets": 8}


REFUSED = [
    ("BACTH_SIZE = 8", "nothing uses the macro BACTH_SIZE; did you mean BATCH_SIZE?"),
    ("EVAL_STEPS = 4", "EVALUATOR_NUM_EXAMPLES limits them"),
    ("LOSS_NORMALIZING_FACTOR = 1.0", "the loss of a task is its plain mean"),
    ("Z_LOSS = 0.0001", "the loss of a task is its plain mean"),
    ("MIXTURE_OR_TASK_MODULE = 'my.tasks'", "write `import MODULE` in the gin file"),
    ("models.EncoderDecoderModel.z_loss = 0.1", "the loss of a task is its plain mean"),
    ("adafactor.Adafactor.decay_rate = 0.8", 'OPTIMIZER = "adafactor"'),
    ("OPTIMIZER = @adafactor.Adafactor()", 'OPTIMIZER = "adafactor"'),
    ("train.infer_eval_dataset_cfg = None", "configs.TrainConfig holds the settings of a run"),
    ("utils.CheckpointConfig.save = None", "CHECKPOINT_PERIOD"),
    ("infer_eval/utils.DatasetConfig.split = 'test'", "validation is evaluated every EVAL_PERIOD"),
    ("utils.create_learning_rate_scheduler.step_offset = 5", "steps count from the start"),
    ("network.T5Config.no_such_field = 1", "no_such_field"),
    ("include 't5x/configs/runs/finetune.gin'", "sbs train reads 'sbs_runs/finetune.gin'"),
    (
        "from __gin__ import dynamic_registration\nfrom sbs_jax.studies import demo\n"
        "demo.registered.seed = 3",
        "demo.registered.seed has no effect in this run",
    ),
]


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[row[0] for row in REFUSED])
def test_a_setting_without_a_counterpart_is_refused_with_file_and_line(tmp_path, line, words):
    with pytest.raises(UserError) as error:
        config_of(tmp_path, line)
    place = f"over.gin:{2 + line.count(chr(10))}"
    assert re.search(rf"{re.escape(place)}\b.*{re.escape(words)}", str(error.value))
    assert "\n" not in str(error.value)


def test_every_name_of_ours_in_the_table_exists():
    macros = {*validation.macros(*CLASSES).values(), "USE_CACHED_TASKS"}
    fields = {f"{kind.__name__}.{f.name}" for kind in CLASSES for f in dataclasses.fields(kind)}
    rows = [row for table in t5x_names._SETTINGS.values() for row in table.values()]
    for row in [*rows, *t5x_names.MACROS.values()]:
        assert row.ours in {None, "T5Config.*", *macros, *fields}, row
        assert row.ours or row.advice, row
        named = re.findall(r"\b[A-Z]+_[A-Z_]+\b", row.advice)
        assert set(named) <= macros | {"MODEL_DIR"}, row


def test_macros_of_packaged_files_may_be_idle(tmp_path):
    assert config_of(tmp_path, "USE_CACHED_TASKS = True").alpha == 0.5


def test_what_a_users_module_may_use_later_is_named_and_kept(tmp_path, monkeypatch, capsys):
    (tmp_path / "my_metric_module.py").write_text(
        "import gin\n\n@gin.configurable\ndef my_metric(tolerance=0): return tolerance\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config_of(tmp_path, "import my_metric_module\nmy_metric_module.my_metric.tolerance = 2")
    assert "over.gin:3: my_metric_module.my_metric.tolerance" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "flags", "said"),
    [
        ("BATCH_SIZE = 8\nTrainConfig.batch_size = 4\n", (), "over.gin:2: BATCH_SIZE = 8 has no"),
        (
            "configs.TrainConfig.batch_size = 4\n",
            ("BATCH_SIZE = 8",),
            "--gin.BATCH_SIZE: BATCH_SIZE",
        ),
        ("BATCH_SIZE = 8\n", ("TrainConfig.batch_size = 4",), "--gin.TrainConfig.batch_size binds"),
        (
            "DROPOUT_RATE = 0.3\nT5Config.dropout_rate = 0.0\n",
            (),
            "DROPOUT_RATE = 0.3 has no effect",
        ),
        (
            "utils.SaveCheckpointConfig.period = 7\nTrainConfig.checkpoint_period = 9\n",
            (),
            "CHECKPOINT_PERIOD = 7 has no effect",
        ),
        ("TrainConfig.batch_size = 4\n", (), None),  # the macro is a packaged file's
        ("BATCH_SIZE = 8\nTrainConfig.batch_size = %BATCH_SIZE\n", (), None),
        ("SMALL = 8\nTrainConfig.batch_size = %SMALL\n", (), None),
        ("BATCH_SIZE = 8\neval/TrainConfig.alpha = %ALPHA\n", (), None),
    ],
)
def test_a_macro_that_a_binding_displaces_is_told(tmp_path, capsys, lines, flags, said):
    if "eval/" in lines:
        with pytest.raises(UserError, match=r"eval/TrainConfig.alpha has no effect"):
            config_of(tmp_path, lines, flags)
    else:
        config_of(tmp_path, lines, flags)
    printed = capsys.readouterr().err
    assert ("warning" in printed) == (said is not None) and (said or "") in printed


@pytest.mark.parametrize("code", ["0", "2", "'x'"])
def test_a_module_that_ends_the_program_is_one_line(tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ends_at_once.py").write_text(f"import sys\nsys.exit({code})\n")
    with pytest.raises(UserError, match=r"import ends_at_once: .* at ends_at_once.py:2\); put"):
        config_of(tmp_path, "import ends_at_once\n")
