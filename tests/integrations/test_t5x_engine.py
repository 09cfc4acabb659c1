"""What upstream T5X is given: converter, loss, update, mesh and start. Needs T5X itself."""

import dataclasses
import importlib.util
import pathlib
import warnings
from collections.abc import Iterator

import jax
import numpy as np
import pytest
import seqio
from flax import traverse_util
from helpers import made_checkpoints as made
from jax.sharding import PartitionSpec

from sbs_jax.checkpoints.formats import t5x
from sbs_jax.configs import OptimizerConfig, PartitionerConfig, T5Config, TrainConfig
from sbs_jax.datasets import methods, registry
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import packing
from sbs_jax.integrations import seqio_tasks
from sbs_jax.training import losses as objective

if not importlib.util.find_spec("t5x"):
    pytest.skip("needs upstream T5X (docs/t5x.md)", allow_module_level=True)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of T5X's own imports
    from t5x import train_state, utils

    from sbs_jax.integrations import t5x_data, t5x_model, t5x_training

import sbs_jax.tasks  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:.with mesh.*context manager:DeprecationWarning")

SIZES = T5Config(256, 16, 2, 1, 1, 8, 32)
CONFIG = TrainConfig(
    model_dir="unused",
    mixture_or_task_name="demo_step_by_step",
    task_feature_lengths={"inputs": 48, "targets": 40},
    train_steps=10,
    model=SIZES,
    vocabulary="demo",
    batch_size=4,
    alpha=0.3,
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2),
)


def with_parts(config: TrainConfig = CONFIG, **parts: int) -> TrainConfig:
    return dataclasses.replace(config, partitioner=PartitionerConfig(**parts))


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The demonstration's SeqIO tasks, and their settings put back at the end."""
    before = seqio_tasks._settings
    seqio_tasks.register(registry.get("demo"))
    with jax.numpy_rank_promotion("allow"):  # T5X's network needs it
        yield
    seqio_tasks._settings = before
    seqio_tasks.register(registry.get("demo"))


def examples(rng: np.random.Generator, count: int) -> list[packing.Example]:
    """Sequences of random length and task."""

    def ids(most: int) -> np.ndarray:
        return np.append(rng.integers(3, 200, rng.integers(1, most)), 1).astype(np.int32)

    return [(ids(16), ids(12), 1 + index % 2) for index in range(count)]


def laid(found: list[packing.Example], rows: int, packed: bool) -> dict[str, np.ndarray]:
    if packed:
        return packing.pack(found, packing.RowLengths(48, 40), rows)
    inputs, targets, tasks = zip(*found, strict=True)
    place = packing.one_per_row(len(found))
    return packing.fill(inputs, targets, np.array(tasks), place, packing.RowLengths(17, 13), rows)


def student(config: TrainConfig = CONFIG) -> t5x_model.Student:
    return t5x_model.Student(config, t5x_training.Optimizer(config))


def parameters(model: t5x_model.Student, batch: dict[str, np.ndarray]) -> dict:
    shapes = {name: rows.shape for name, rows in batch.items()}
    types = {name: rows.dtype for name, rows in batch.items()}
    make = jax.jit(lambda rng: model.get_initial_variables(rng, shapes, types)["params"])
    return make(jax.random.PRNGKey(1))


def loss_of(model: t5x_model.Student, params: dict, batch: dict[str, np.ndarray]) -> tuple:
    return jax.jit(lambda params, batch: model.loss_fn(params, batch, None))(params, batch)


def logits_of(model: t5x_model.Student, params: dict, batch: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray(jax.jit(model._compute_logits)(params, batch))


def by_hand(logits: np.ndarray, batch: dict[str, np.ndarray]) -> list[float]:
    """Mean cross-entropy of each task, sequence position by sequence position."""
    logits = np.asarray(logits, np.float64)
    found: dict[int, list[float]] = {1: [], 2: []}
    for place in np.argwhere(batch["decoder_task_ids"] > 0):
        row = logits[tuple(place)]
        target = batch["decoder_target_tokens"][tuple(place)]
        loss = np.log(np.exp(row - row.max()).sum()) + row.max() - row[target]
        found[int(batch["decoder_task_ids"][tuple(place)])].append(loss)
    return [float(np.mean(losses)) for losses in found.values()]


def test_the_loss_is_the_mean_over_each_tasks_tokens() -> None:
    found = examples(np.random.default_rng(0), 12)
    model = student()
    batch = laid(found, 12, packed=False)
    params = parameters(model, batch)
    loss, metrics = loss_of(model, params, batch)
    label, rationale = by_hand(logits_of(model, params, batch), batch)
    assert float(loss) == pytest.approx(0.3 * label + 0.7 * rationale, abs=1e-5)
    assert float(metrics["label/loss"].compute()) == pytest.approx(label, abs=1e-5)
    assert float(metrics["rationale/loss"].compute()) == pytest.approx(rationale, abs=1e-5)
    packed = laid(found, 4, packed=True)
    again, _ = loss_of(model, params, packed)
    assert float(again) == pytest.approx(float(loss), abs=1e-5)


def test_a_single_task_is_not_weighted() -> None:
    config = dataclasses.replace(CONFIG, mixture_or_task_name="demo_rationale")
    found = [e for e in examples(np.random.default_rng(0), 8) if e[2] == methods.RATIONALE]
    batch, model = laid(found, 4, packed=False), student(config)
    params = parameters(model, batch)
    loss, metrics = loss_of(model, params, batch)
    assert float(loss) == pytest.approx(float(metrics["rationale/loss"].compute()))
    assert float(metrics["label/loss"].compute()) == 0.0  # no tokens: not nan


@pytest.mark.parametrize("pack", [True, False])
def test_the_converter_marks_every_target_token(pack: bool) -> None:
    name = t5x_data.mixture(CONFIG)
    lengths = t5x_data.train_lengths(CONFIG)
    data = seqio.get_dataset(
        mixture_or_task_name=name,
        task_feature_lengths=lengths,
        dataset_split="train",
        shuffle=False,
        seed=0,
        num_epochs=1,
        feature_converter=t5x_data.TaskIdConverter(pack=pack),
    )
    prefixes = {
        tuple(seqio_tasks.seqio_vocabulary("demo").encode(text)): task
        for text, task in (("[label]", methods.LABEL), ("[rationale]", methods.RATIONALE))
    }
    most = 0
    for row in data.take(30).as_numpy_iterator():
        ids = row["decoder_task_ids"]
        assert ((ids > 0) == (row["decoder_target_tokens"] > 0)).all()
        asked = row.get("encoder_segment_ids", row["encoder_input_tokens"] > 0)
        answered = row.get("decoder_segment_ids", ids > 0)
        most = max(most, int(answered.max()))
        for segment in range(1, int(answered.max()) + 1):
            inputs = tuple(row["encoder_input_tokens"][asked == segment])
            (task,) = (t for prefix, t in prefixes.items() if inputs[: len(prefix)] == prefix)
            assert set(ids[answered == segment].tolist()) == {task}
    assert (most > 1) == pack


def update(config: TrainConfig, batch: dict[str, np.ndarray], steps: int = 2) -> tuple:
    """(parameters, metrics) after some updates by T5X's trainer with the same batch."""
    model, partitioner = student(config), t5x_training.Partitioner(config)
    initializer = utils.TrainStateInitializer(
        optimizer_def=model.optimizer_def,
        init_fn=model.get_initial_variables,
        input_shapes={name: rows.shape for name, rows in batch.items()},
        input_types={name: rows.dtype for name, rows in batch.items()},
        partitioner=partitioner,
    )
    with t5x_training.Trainer(
        config=config,
        model=model,
        train_state=initializer.from_scratch(jax.random.PRNGKey(0)),
        partitioner=partitioner,
        eval_names=(),
        summary_dir=None,
        train_state_axes=initializer.train_state_axes,
        rng=jax.random.PRNGKey(0),
    ) as trainer:
        metrics = trainer.train(iter([batch] * steps), steps, start_step=0).result()
        return jax.tree.map(np.asarray, trainer.train_state.params), metrics


def test_neither_micro_batches_nor_the_mesh_change_an_update() -> None:
    batch = laid(examples(np.random.default_rng(3), 30), 8, packed=True)
    # Adam's first move is rate * g / (|g| + eps): with eps 1e-8 the order of a sum decides it
    # where a gradient's terms cancel.
    optimizer = dataclasses.replace(CONFIG.optimizer, eps=1e-3)
    config = dataclasses.replace(CONFIG, optimizer=optimizer)
    whole, wanted = update(with_parts(config, num_partitions=1), batch)
    for parts in ({"num_microbatches": 4}, {"num_partitions": 2}):
        params, metrics = update(with_parts(config, **parts), batch)
        for name in ("loss", "label/loss", "rationale/loss", "learning_rate"):
            assert float(metrics[name].value) == pytest.approx(float(wanted[name].value), rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), params, whole)
    assert float(wanted["learning_rate/current"].value) == pytest.approx(5e-3)  # half warmed up


def test_num_partitions_holds_on_a_cpu() -> None:
    mesh = t5x_training.Partitioner(with_parts(num_partitions=2)).mesh
    assert dict(mesh.shape) == {"data": 4, "model": 2}
    with pytest.raises(UserError, match="num_partitions=3 does not divide the 8 devices"):
        _ = t5x_training.Partitioner(with_parts(num_partitions=3)).mesh


def test_fsdp_is_refused_with_t5xs_name_for_it() -> None:
    with pytest.raises(UserError, match=r"fsdp = 2: .*parameter_partitioning_dims=2"):
        t5x_training.Partitioner(with_parts(fsdp=2))
    rules = t5x_training.Partitioner(CONFIG, parameter_partitioning_dims=2).logical_axis_rules
    assert dict(rules)["embed"] == "data"


@pytest.mark.parametrize("preset", ["adamw", "adamw_hf", "adafactor"])
def test_slots_live_where_their_parameter_does(preset: str) -> None:
    sizes = dataclasses.replace(SIZES, emb_dim=128, mlp_dim=256)
    config = dataclasses.replace(CONFIG, model=sizes, optimizer=OptimizerConfig(preset=preset))
    model = student(config)
    shapes = dict.fromkeys(laid(examples(np.random.default_rng(0), 4), 8, False), (8, 16))
    state = jax.eval_shape(
        lambda: train_state.FlaxOptimTrainState.create(
            model.optimizer_def, model.get_initial_variables(jax.random.PRNGKey(0), shapes)
        )
    )
    axes = t5x_training.Partitioner(config).get_mesh_axes(state)
    leaves, specs = flat(state), flat(axes)
    params = {name: leaf for name, leaf in leaves.items() if name.startswith("target/")}
    slots = 0
    for name, leaf in params.items():
        own = name.removeprefix("target")
        for slot in (n for n in leaves if n.startswith("state/") and n.endswith(own)):
            slots += 1
            assert specs[slot] == (specs[name] if leaves[slot].shape == leaf.shape else None), slot
    assert slots == (3 if preset == "adafactor" else 2) * len(params)
    assert specs["target/encoder/layers_0/mlp/wo/kernel"] == PartitionSpec("model", None)


def flat(state: train_state.FlaxOptimTrainState) -> dict:
    return traverse_util.flatten_dict(state.state_dict(), sep="/")


def test_settings_that_t5xs_network_lacks_are_refused() -> None:
    made = t5x_model.network_config(SIZES)
    assert made.float32_attention_logits and made.emb_dim == 16

    @dataclasses.dataclass(frozen=True)
    class Wider(T5Config):
        another: int = 0

    sizes = dataclasses.asdict(SIZES)
    assert t5x_model.network_config(Wider(**sizes)) == made
    with pytest.raises(UserError, match=r"T5Config\.another = 1: T5X's network has"):
        t5x_model.network_config(Wider(**sizes, another=1))


def test_lengths_and_rows() -> None:
    lengths = {"inputs": 9, "targets": 99}
    long = dataclasses.replace(CONFIG, task_feature_lengths=lengths, max_decode_length=63)
    assert t5x_data.train_lengths(long) == {"inputs": 9, "targets": 99, "targets_task": 99}
    assert t5x_data.eval_lengths(long) == {"inputs": 9, "targets": 63, "targets_task": 63}
    whole = dataclasses.replace(long, max_decode_length=None)
    assert t5x_data.eval_lengths(whole)["targets"] == 99
    assert t5x_data.rows(CONFIG) == 8
    assert t5x_data.rows(dataclasses.replace(CONFIG, mixture_or_task_name="demo_finetune")) == 4


def test_the_mixture_has_the_settings_of_the_macros() -> None:
    config = dataclasses.replace(CONFIG, label_prefix="predict: ", data_fraction=0.5)
    task = seqio.get_mixture_or_task(t5x_data.mixture(config)).tasks[0]
    rows = list(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    assert rows[0]["inputs_pretokenized"].startswith(b"predict: ")
    assert len(rows) == len(registry.get("demo").rows("train", 0.5, config.random_seed)[1])
    with pytest.raises(UserError, match="demo_lable: no such task or mixture; did you mean"):
        t5x_data.mixture(dataclasses.replace(CONFIG, mixture_or_task_name="demo_lable"))


def initial(path: str | None) -> str | None:
    config = dataclasses.replace(CONFIG, initial_checkpoint_path=path)
    return t5x_training.initial_checkpoint(config)


def test_initial_checkpoints_of_t5x_are_passed_on(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    t5x.write(tmp_path / "checkpoint_7", made.checkpoint())
    assert initial(None) is None
    assert initial("gs://bucket/checkpoint_1") == "gs://bucket/checkpoint_1"
    assert initial("checkpoint_7") == str(tmp_path / "checkpoint_7")


def test_an_initial_checkpoint_of_another_format_is_refused(shared: pathlib.Path) -> None:
    path = shared / "vectors" / "init_micro.safetensors"
    for other in (str(path), "hf://google/t5-v1_1-base"):
        with pytest.raises(UserError, match=rf"Hugging Face .*`sbs convert --to=t5x {other} "):
            initial(other)


def test_only_the_parameters_of_an_initial_checkpoint_are_taken() -> None:
    held = {"target": {"a": {"kernel": 1}}, "state": {"step": 1_000_000}}
    wanted = {"target": {"a": {"kernel": 0}}, "state": {"step": 0, "param_states": {}}}
    assert t5x_training.parameters_alone(held, wanted) == {"target": held["target"]}
    assert t5x_training.parameters_alone(held, wanted, is_resuming=True) == held
    other = {"target": {"b": {"kernel": 1}}}
    with pytest.raises(UserError, match="missing: a/kernel; unknown: b/kernel"):
        t5x_training.parameters_alone(other, wanted)


def test_task_weights_are_the_objectives() -> None:
    np.testing.assert_array_equal(
        student()._task_weights, objective.task_weights(objective.TASKS, 0.3)
    )
