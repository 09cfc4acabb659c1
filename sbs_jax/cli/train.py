"""Train a student from a gin file, or from a table of your own: stage 2 of Distilling Step-by-Step.

The same command with the same MODEL_DIR continues a run. Values that are strings keep their quotes:

  sbs train --records=reviews.csv --text=review --label=stars --rationale=why
  sbs train --gin_file=experiments/cqa_step_by_step.gin --gin.MODEL_DIR='"runs/cqa"'
  sbs train --gin_file=my.gin --gin.MODEL_DIR='"runs/a"' --gin.ALPHA=0.7 --gin.TRAIN_STEPS=300
  sbs train --gin_file=my.gin --gin.MODEL_DIR='"runs/a"' --dry_run
  sbs train --gin_file=my.gin --gin.MODEL_DIR='"runs/a"' --dry_run --plan --plan_devices=64

--gin.NAME=VALUE sets a macro or a binding after all files were read. Gin files are looked for in
the working directory, in --gin_search_paths and among the packaged ones.
"""

import time

from absl import flags

from sbs_jax.cli import flags as shared
from sbs_jax.cli import processes, runtime, train_records
from sbs_jax.configs import TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.utils import buckets
from sbs_jax.utils.console import say
from sbs_jax.utils.paths import is_remote

FLAGS = flags.FlagValues()
FLAGS_OF_T5X = {
    **dict.fromkeys(
        ("v", "verbosity", "stderrthreshold"), "there are no log levels; progress goes to stderr"
    ),
    "logtostderr": "progress always goes to stderr; leave the flag out",
    "log_dir": "progress goes to stderr, metrics to MODEL_DIR/metrics.jsonl; leave the flag out",
    "jax_backend_target": "set the variable JAX_PLATFORMS instead",
    "jax_xla_backend": "set the variable JAX_PLATFORMS instead",
}

# T5X's flags under T5X's names; tests/cli/test_cli.py holds the list.
shared.gin(FLAGS)
shared.place(FLAGS, "model_dir", None, "MODEL_DIR; default with --records: runs/NAME of the file.")
train_records.define(FLAGS)
shared.data_dir(FLAGS)
shared.cache_dir(FLAGS)
runtime.define(FLAGS)
shared.place(
    FLAGS,
    "tfds_data_dir",
    None,
    "T5X's name of --data_dir; TFDS sources read from it, local or gs://.",
)
flags.DEFINE_list(
    "seqio_additional_cache_dirs",
    [],
    "For t5x.train, which reads SeqIO caches; refused here: tokens are prepared in --cache_dir.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean("alsologtostderr", True, "Progress always goes to stderr.", flag_values=FLAGS)
flags.DEFINE_enum(
    "run_mode",
    "train",
    ["train", "eval", "infer", "precompile"],
    "T5X's flag: only train; use sbs evaluate, sbs predict or --dry_run --plan for the others.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "dry_run",
    False,
    "Print the resolved configuration and the learning rates, and stop.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "plan",
    False,
    "With --dry_run: print parameters, bytes per device and FLOPs per step (docs/planning.md).",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "plan_devices",
    None,
    "Devices to plan for, present or not; default: those that are here.",
    flag_values=FLAGS,
)
flags.DEFINE_list(
    "plan_shape",
    [],
    "ROWS,INPUTS,TARGETS of a batch; default: from the run's data, else one sequence per row.",
    flag_values=FLAGS,
)
flags.DEFINE_boolean(
    "plan_compile",
    False,
    "Also compile the planned step for the devices that are here and print XLA's analysis.",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "plan_accelerator",
    None,
    ["v5e", "v6e", "h100", "v5p", "h200"],
    "Compare the planned bytes with the memory of this device; default: with each of them.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "profile_steps",
    0,
    "Write a profile of this many updates to MODEL_DIR/profile, for TensorBoard or XProf.",
    lower_bound=0,
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "tracker",
    "tensorboard",
    ["tensorboard", "wandb", "mlflow"],
    "Give the scalars of metrics.jsonl to Weights & Biases or MLflow too; their own variables "
    "(WANDB_MODE, MLFLOW_TRACKING_URI, ...) apply. TensorBoard's events are always written.",
    flag_values=FLAGS,
)
processes.define(FLAGS)


def main(argv: list[str]) -> None:
    """Parses gin, then trains (or prints the configuration)."""
    started = time.monotonic()
    from sbs_jax.configs import gin_loader, t5x_names
    from sbs_jax.datasets import registry
    from sbs_jax.training import learning_rates, trackers

    if not FLAGS.gin_file and not FLAGS.records:
        raise UserError("--gin_file is required, or --records with a table (sbs train --help)")
    _check_plan()
    _check_t5x()
    train_records.check(FLAGS)
    files, bindings, own = _sources()
    scan = gin_loader.load(files, bindings, FLAGS.gin_search_paths)
    config = gin_loader.build("configs.TrainConfig", scan)
    learning_rates.refuse_long_warm_up(config, scan)
    if notice := t5x_names.steps_notice(config.train_steps, config.initial_checkpoint_path):
        say(notice)
    buckets.require(config.model_dir, "MODEL_DIR")
    if FLAGS.profile_steps and is_remote(config.model_dir):
        raise UserError("--profile_steps: MODEL_DIR must be a local folder; jax writes it there")
    if FLAGS.dry_run:
        registry.resolve(config.mixture_or_task_name)
        if own and FLAGS.plan and not FLAGS.plan_shape:
            own.check_plan(config)
        print(_plan(config) if FLAGS.plan else gin_loader.describe(scan))
        say(learning_rates.learning_rates(config))
        return None
    import gin

    trackers.require(FLAGS.tracker)
    if own:
        own.write(config)
    runtime.start(FLAGS)
    from sbs_jax.training import trainer

    with processes.joined(FLAGS):
        trainer.train(
            config,
            gin.operative_config_str(),
            profile_steps=FLAGS.profile_steps,
            tracker=FLAGS.tracker,
            started=started,
        )
    return None


def _sources() -> tuple[list[str], list[str], train_records.Prepared | None]:
    """(gin files, bindings, records of --records or None); what the user gave comes last."""
    files, bindings = list(FLAGS.gin_file or []), list(FLAGS.gin_bindings)
    if not FLAGS.records:
        place = [f"MODEL_DIR = {FLAGS.model_dir!r}"] if FLAGS.model_dir else []
        return files, [*place, *bindings], None
    model_dir = FLAGS.model_dir or train_records.default_model_dir(FLAGS.records)
    own = train_records.prepare(FLAGS, model_dir)
    return [*own.gin_files, *files], [*own.bindings, *bindings], own


def _check_plan() -> None:
    if FLAGS.plan and not FLAGS.dry_run:
        raise UserError("--plan needs --dry_run: it plans a run and starts none")
    for name in ("plan_devices", "plan_shape", "plan_compile", "plan_accelerator"):
        if FLAGS[name].present and not FLAGS.plan:
            raise UserError(f"--{name}: needs --dry_run --plan")


def _check_t5x() -> None:
    """Refuses values of T5X's flags that mean something else than what happens here."""
    modes = {"eval": "sbs evaluate", "infer": "sbs predict", "precompile": "--dry_run --plan"}
    if FLAGS.run_mode in modes:
        raise UserError(f"--run_mode={FLAGS.run_mode}: use {modes[FLAGS.run_mode]}")
    if FLAGS.seqio_additional_cache_dirs:
        raise UserError(
            "--seqio_additional_cache_dirs: sbs train reads no SeqIO cache; leave the flag out, "
            "tokens are prepared once in --cache_dir"
        )
    if not FLAGS.alsologtostderr:
        raise UserError("--noalsologtostderr: progress always goes to stderr; redirect stderr")


def _plan(config: TrainConfig) -> str:
    """What the run would need, on devices that need not be here."""
    import jax

    from sbs_jax.training import plan

    devices = jax.device_count() if FLAGS.plan_devices is None else FLAGS.plan_devices
    try:
        sizes = [int(number) for number in FLAGS.plan_shape]
    except ValueError:
        raise UserError("--plan_shape: give three whole numbers, ROWS,INPUTS,TARGETS") from None
    shape = plan.batch_shape(config, devices, sizes)
    measured = plan.measure(config, devices, shape) if FLAGS.plan_compile else None
    return plan.describe(plan.plan(config, devices, shape), measured, FLAGS.plan_accelerator)
