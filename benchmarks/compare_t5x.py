"""The losses of an experiment's first steps, by our engine and by upstream T5X.

    python benchmarks/compare_t5x.py --gin_file=experiments/demo_step_by_step.gin [--gin.X=Y ...]

Both engines resolve the same gin files, each with its own wiring, start from the same parameters
and see the same batches: those of our engine and those of T5X's SeqIO pipeline, packed and
unpacked. The update of ours is its train step, that of T5X is its trainer's. Dropout is off and
everything is computed in float32. Exits with 1 if any loss differs by more than --tolerance.

Needs T5X (docs/t5x.md). Several devices of a CPU:
XLA_FLAGS=--xla_force_host_platform_device_count=8, with
--gin.PartitionerConfig.num_partitions=2 and the like.
"""

import importlib.util
import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import app, flags

from sbs_jax.configs import TrainConfig, gin_loader
from sbs_jax.datasets import registry
from sbs_jax.errors import UserError
from sbs_jax.utils import paths

# T5X's files bind the function `train` of the program that runs; `_t5x` puts it here.
_TRAIN = "train"

_FILES = flags.DEFINE_multi_string("gin_file", None, "An experiment.", required=True)
_BINDINGS = flags.DEFINE_multi_string("gin_bindings", [], "Also as --gin.NAME=VALUE.")
# The wiring checks the command line of t5x.train, which has this flag.
_FOLDERS = flags.DEFINE_multi_string(
    "gin_search_paths", [str(paths.gin_dir() / "engines" / "t5x")], "Where T5X's run files are."
)
_STEPS = flags.DEFINE_integer("steps", 10, "Updates to compare.")
_TOLERANCE = flags.DEFINE_float("tolerance", 1e-4, "Largest difference of a loss.")
_DATA_DIR = flags.DEFINE_string("tfds_data_dir", None, "Where sbs data wrote; else $SBS_DATA_DIR.")

_NUMBERS = ("label/loss", "rationale/loss", "loss")


def _resolve(packed: bool) -> tuple[TrainConfig, dict[str, Any]]:
    """What the files mean to our engine, and T5X's train function's arguments."""
    import t5x.train  # before gin locks a configuration: it registers more functions

    exact = ["DROPOUT_RATE = 0.0", "DTYPE = 'float32'", f"PACK = {packed}"]
    bindings = ["MODEL_DIR = 'unused'", *_BINDINGS.value, *exact]
    ours = gin_loader.build("configs.TrainConfig", gin_loader.load(_FILES.value, bindings))
    setattr(sys.modules["__main__"], _TRAIN, t5x.train.train)
    root = Path(t5x.train.__file__).parent.parent
    gin_loader.load(_FILES.value, bindings, [paths.gin_dir() / "engines" / "t5x", root], False)
    import gin

    return ours, gin.get_bindings(_TRAIN)


def _our_batches(config: TrainConfig, multiple: int) -> Iterator[dict]:
    from sbs_jax.input_pipeline import pipeline as inputs

    batches = inputs.training_batches(inputs.Source.of(config), config, multiple)
    return (batches[step] for step in range(len(batches)))


def _seqio_batches(arguments: dict[str, Any]) -> Iterator[dict]:
    """T5X's own; segments and positions, which our model needs, are added to unpacked rows."""
    import numpy as np
    from t5x import utils

    layout = arguments["partitioner"].get_data_layout(arguments["train_dataset_cfg"].batch_size)
    converter = arguments["model"].FEATURE_CONVERTER_CLS
    data = utils.get_dataset(arguments["train_dataset_cfg"], layout.shard_id, 1, converter)
    for batch in data.as_numpy_iterator():
        for side, tokens in (("encoder", "input"), ("decoder", "target")):
            held = batch[f"{side}_{tokens}_tokens"] != 0
            batch.setdefault(f"{side}_segment_ids", held.astype(np.int32))
            positions = np.cumsum(held, axis=1) - 1
            batch.setdefault(f"{side}_positions", (positions * held).astype(np.int32))
        yield batch


def _our_losses(config: TrainConfig, batches: list[dict], params: dict) -> list[list[float]]:
    from sbs_jax.distributed.partitioning import Partitioner
    from sbs_jax.training import losses as objective
    from sbs_jax.training import optimizers, schedules
    from sbs_jax.training import train_step as step

    partitioner = Partitioner.of(config.partitioner)
    schedule = schedules.learning_rate_of(config.optimizer, config.train_steps)
    optimizer = optimizers.optimizer_of(config.optimizer, schedule)
    views = registry.resolve(config.mixture_or_task_name).views
    tasks = tuple(view.task_id.key for view in views)
    weights = objective.task_weights(tasks, config.alpha)
    count = config.partitioner.num_microbatches
    train_step = step.make_train_step(
        config.model, optimizer, schedule, weights, partitioner, num_microbatches=count
    )
    state = step.init_state(config.model, optimizer, partitioner, 0, params)
    losses = []
    for batch in batches:
        state, metrics = train_step(state, partitioner.put_batch(batch))
        means = [
            metrics[f"{task}/loss_sum"] / max(float(metrics[f"{task}/tokens"]), 1.0)
            for task in objective.TASKS
        ]
        losses.append([float(number) for number in (*means, metrics["loss"])])
    return losses


def _t5x_losses(arguments: dict[str, Any], batches: list[dict], params: dict) -> list[list[float]]:
    import jax
    from flax.core import freeze
    from t5x import utils

    model, partitioner = arguments["model"], arguments["partitioner"]
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={name: rows.shape for name, rows in batches[0].items()},
        input_types={name: rows.dtype for name, rows in batches[0].items()},
        partitioner=partitioner,
    )
    state = initializer.from_scratch(jax.random.PRNGKey(0))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    as_theirs = freeze(params) if type(state.params) is not dict else params
    state = state.replace_params(jax.device_put(as_theirs, shardings))
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = arguments["trainer_cls"](
            model=model,
            train_state=state,
            partitioner=partitioner,
            eval_names=(),
            summary_dir=folder,
            train_state_axes=initializer.train_state_axes,
            rng=jax.random.PRNGKey(0),
        )
        with trainer:
            for index, batch in enumerate(batches):
                metrics = trainer.train(iter([batch]), 1, start_step=index).result()
                losses.append([float(metrics[name].value) for name in _NUMBERS])
    return losses


def _initial(config: TrainConfig) -> dict:
    """Host parameters both engines start from."""
    import jax
    import numpy as np

    from sbs_jax.checkpoints import initial
    from sbs_jax.models.t5 import init_params

    if config.initial_checkpoint_path:
        return initial.load_params(config.initial_checkpoint_path, config.model)
    params = init_params(config.model, jax.random.key(config.random_seed))
    return jax.tree.map(np.asarray, params)


def _compare(packed: bool, pipeline: str) -> float:
    """Prints the losses of both; returns the largest difference."""
    ours, theirs = _resolve(packed)
    multiple = theirs["partitioner"].data_mesh_size * ours.partitioner.num_microbatches
    source = _our_batches(ours, multiple) if pipeline == "sbs" else _seqio_batches(theirs)
    batches = list(itertools.islice(source, _STEPS.value))
    params = _initial(ours)
    mine = _our_losses(ours, batches, params)
    other = _t5x_losses(theirs, batches, params)
    print(f"\n{ours.mixture_or_task_name}, {'' if packed else 'un'}packed batches of {pipeline}:")
    print(f"{'step':>4}" + "".join(f"  {name + ' (sbs, t5x)':>24}" for name in _NUMBERS))
    for index, pair in enumerate(zip(mine, other, strict=True)):
        cells = "".join(f"  {a:>12.6f}{b:>12.6f}" for a, b in zip(*pair, strict=True))
        print(f"{index:>4}{cells}")
    pairs = zip(itertools.chain(*mine), itertools.chain(*other), strict=True)
    largest = max(abs(a - b) for a, b in pairs)
    print(f"largest difference {largest:.2e}")
    return largest


def main(argv: list[str]) -> None:
    """Compares all four kinds of batches."""
    del argv
    if importlib.util.find_spec("t5x") is None:
        sys.exit("compare_t5x: t5x is not installed here; docs/t5x.md says how")
    if _DATA_DIR.value:
        paths.set_data_dir(_DATA_DIR.value)
    try:
        found = [_compare(*case) for case in itertools.product((False, True), ("sbs", "seqio"))]
    except UserError as error:
        sys.exit(f"compare_t5x: {error}")
    if max(found) > _TOLERANCE.value:
        sys.exit(f"compare_t5x: {max(found):.2e} is more than {_TOLERANCE.value}")
    print(f"\nall within {_TOLERANCE.value}")


if __name__ == "__main__":
    app.run(main, argv=gin_loader.rewrite_flags(sys.argv))
