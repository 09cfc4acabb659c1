"""The train step means the same on any mesh, in any layout, in any number of micro-batches."""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import numpy as np
import pytest
from helpers.examples import CONFIG, examples
from jax.sharding import PartitionSpec

from sbs_jax.configs import T5Config, gin_loader
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import packing
from sbs_jax.training import losses, optimizers, schedules
from sbs_jax.training import train_step as step
from sbs_jax.training.train_state import is_stacked, named_state, owned, stacked_state

DEEP = dataclasses.replace(CONFIG, num_encoder_layers=3, num_decoder_layers=2)
ROWS = packing.RowLengths(24, 16)


def batch_with(seed: int, packed: bool) -> packing.Batch:
    found = examples(seed)
    if packed:
        return packing.pack(found, ROWS, 16)
    inputs, targets, tasks = zip(*found, strict=True)
    place = packing.one_per_row(len(found))
    return packing.fill(inputs, targets, np.array(tasks), place, ROWS, 24)


def run(
    partitioner: Partitioner,
    *,
    packed: bool = False,
    microbatches: int = 1,
    config: T5Config = CONFIG,
    steps: int = 4,
    normalization: str = step.GLOBAL,
    stacked: bool = False,
    preset: str = "adamw",
    batch_of: Callable[[int, bool], packing.Batch] = batch_with,
) -> tuple[list[dict], dict]:
    """Metrics of each step and the final parameters of a short run."""
    rate = schedules.create_learning_rate_scheduler(base_learning_rate=1e-2, total_steps=10)
    optimizer = optimizers.create_optimizer(preset, rate)
    train_step = step.make_train_step(
        config,
        optimizer,
        rate,
        losses.task_weights(losses.TASKS, 0.3),
        partitioner,
        num_microbatches=microbatches,
        normalization=normalization,
        stacked=stacked,
    )
    state = step.init_state(config, optimizer, partitioner, seed=0)
    state = stacked_state(state) if stacked else state
    history = []
    for index in range(steps):
        batch = batch_of(index, packed)
        state, metrics = train_step(state, partitioner.put_batch(batch))
        history.append(jax.device_get(metrics))
    assert train_step.func._cache_size() == 1, "one shape, one compilation"
    assert is_stacked(state.params) == stacked
    return history, jax.device_get(named_state(state).params)


@pytest.fixture(scope="module")
def plain() -> tuple[list[dict], dict]:
    return run(Partitioner(devices=jax.devices()[:1]))


def assert_same(found: tuple[list[dict], dict], wanted: tuple[list[dict], dict]) -> None:
    """Equal up to float32's order of summation; Adam turns 1e-7 of gradient into 1e-5 of weight."""
    for a, b in zip(found[0], wanted[0], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-6)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(wanted[1]), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_partitions": 1},
        pytest.param({"num_partitions": 2}, marks=pytest.mark.slow),
        {"num_partitions": 2, "fsdp": 2},
        pytest.param({"fsdp": 8}, marks=pytest.mark.slow),
    ],
    ids=["data8", "data4-model2", "data2-fsdp2-model2", "fsdp8"],
)
@pytest.mark.parametrize(
    "layout",
    [pytest.param({}, marks=pytest.mark.slow), {"packed": True, "microbatches": 2}],
    ids=["", "packed"],
)
def test_every_mesh_gives_the_same_run(plain, settings, layout):
    assert_same(run(Partitioner(**settings), **layout), plain)


@pytest.mark.parametrize(
    ("settings", "vocab_size"),
    [({"devices": jax.devices()[:1]}, 512), ({"num_partitions": 2, "fsdp": 2}, 96)],
    ids=["large", "sharded"],
)
def test_a_nan_that_no_question_reads_is_seen(settings, vocab_size):
    """XLA's maximum on a CPU loses it in arrays of more than 4,096 numbers, and over shards."""
    config = dataclasses.replace(CONFIG, vocab_size=vocab_size)
    partitioner = Partitioner(**settings)
    rate = schedules.create_learning_rate_scheduler(base_learning_rate=1e-2, total_steps=10)
    optimizer = optimizers.create_optimizer("adamw", rate)
    weights = losses.task_weights(losses.TASKS, 0.3)
    train_step = step.make_train_step(config, optimizer, rate, weights, partitioner)
    state = step.init_state(config, optimizer, partitioner, seed=0)
    embedding = state.params["token_embedder"]
    embedding["embedding"] = embedding["embedding"].at[-2, 3].set(np.nan)
    _, metrics = train_step(state, partitioner.put_batch(batch_with(0, packed=False)))
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"])
    assert np.isnan(metrics["param_max"])


@pytest.mark.parametrize(
    "settings",
    [
        {"devices": jax.devices()[:1]},
        pytest.param({"num_partitions": 2, "fsdp": 2}, marks=pytest.mark.slow),
    ],
    ids=["one", "data2-fsdp2-model2"],
)
def test_scanned_layers_give_the_same_run(deep, settings):
    scanned = dataclasses.replace(DEEP, scan_layers=True, remat_policy="full")
    assert_same(run(Partitioner(**settings), config=scanned, packed=True), deep)


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({"devices": jax.devices()[:1]}, {}),
        pytest.param({"devices": jax.devices()[:1]}, {"scan_layers": True}, marks=pytest.mark.slow),
        pytest.param({"num_partitions": 2, "fsdp": 2}, {}, marks=pytest.mark.slow),
        pytest.param(
            {"num_partitions": 2, "fsdp": 2},
            {"scan_layers": True, "remat_policy": "full"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["one", "one-scan", "mesh", "mesh-scan-remat"],
)
def test_stacked_layers_give_the_same_run(deep, settings, changes):
    config = dataclasses.replace(DEEP, **changes)
    partitioner = Partitioner(**settings)
    assert_same(run(partitioner, config=config, packed=True, stacked=True), deep)


@pytest.mark.slow
def test_stacking_and_back_gives_the_same_state_and_deletes_the_other():
    partitioner = Partitioner(num_partitions=2, fsdp=2)
    rate = schedules.create_learning_rate_scheduler(total_steps=10)
    optimizer = optimizers.create_optimizer("adamw", rate)
    state = step.init_state(DEEP, optimizer, partitioner, seed=0)
    wanted = jax.device_get(state)
    stacked = stacked_state(state)
    layer = stacked.params["encoder"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert layer.shape == (3, 16, 32) and layer.sharding.spec == PartitionSpec(
        None, "fsdp", "model"
    )
    assert state.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"].is_deleted()
    shapes = step.abstract_state(DEEP, optimizer, partitioner, stacked=True)
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, shapes)
    again = named_state(stacked)
    assert layer.is_deleted()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), wanted)
    sharding = step.abstract_state(DEEP, optimizer, partitioner)
    assert jax.tree.map(lambda a: a.sharding, again) == jax.tree.map(lambda a: a.sharding, sharding)


@pytest.mark.parametrize(
    ("settings", "packed", "microbatches"),
    [({}, True, 1), ({"devices": jax.devices()[:1]}, False, 2)],
    ids=["packed-data8", "unpacked-one"],
)
def test_a_shared_encoder_gives_the_run_of_two_passes(shared_twice, settings, packed, microbatches):
    found = run(
        Partitioner(**settings), packed=packed, microbatches=microbatches, batch_of=shared_batch
    )
    assert_same(found, shared_twice)


@pytest.fixture(scope="module")
def shared_twice() -> tuple[list[dict], dict]:
    """Every target with an encoder pass of its own, but the start of a shared encoder."""
    return run(Partitioner(devices=jax.devices()[:1]), batch_of=two_passes)


def questions(seed: int) -> list[list[packing.Example]]:
    """Examples of one question side by side: the same inputs, both tasks."""
    found = examples(seed)
    pairs = zip(found[::2], found[1::2], strict=True)
    return [[first, (first[0], *second[1:])] for first, second in pairs]


def two_passes(seed: int, packed: bool) -> packing.Batch:
    inputs, targets, tasks = zip(*itertools.chain(*questions(seed)), strict=True)
    place = packing.one_per_row(len(inputs))
    batch = packing.fill(inputs, targets, np.array(tasks), place, ROWS, 24)
    batch["decoder_input_tokens"][:, 0] = np.array(tasks) - 1
    return batch


def shared_batch(seed: int, packed: bool) -> packing.Batch:
    found = questions(seed)
    inputs = [pair[0][0] for pair in found]
    _, targets, tasks = zip(*itertools.chain(*found), strict=True)
    rows = packing.RowLengths(24, 24)
    sizes = [sum(len(target) for _, target, _ in pair) for pair in found]
    lengths = packing.Lengths(np.array([*map(len, inputs)]), np.array(sizes))
    place = packing.place(lengths, rows, 8) if packed else packing.one_per_row(12)
    count = max(8, place.rows) if packed else 12
    return packing.fill(
        inputs, targets, np.array(tasks), place, rows, count, np.repeat(np.arange(12), 2)
    )


@pytest.fixture(scope="module")
def deep() -> tuple[list[dict], dict]:
    return run(Partitioner(devices=jax.devices()[:1]), config=DEEP)


@pytest.mark.slow
@pytest.mark.parametrize("microbatches", [2, 3])
def test_packing_and_micro_batches_change_nothing(plain, microbatches):
    single = Partitioner(devices=jax.devices()[:1])
    assert_same(run(single, packed=True), plain)
    assert_same(run(single, microbatches=microbatches), plain)


def test_the_originals_accumulation_is_another_number(plain):
    single = Partitioner(devices=jax.devices()[:1])
    history, _ = run(single, microbatches=3, normalization=step.PER_MICROBATCH, steps=1)
    assert abs(history[0]["loss"] - plain[0][0]["loss"]) > 1e-4


@pytest.mark.slow
def test_dropout_depends_on_seed_and_step_not_on_the_mesh():
    config = T5Config(**{**vars(CONFIG), "dropout_rate": 0.3})
    one = run(Partitioner(devices=jax.devices()[:1]), config=config)
    many = run(Partitioner(num_partitions=2), config=config)
    assert_same(many, one)
    assert abs(one[0][0]["loss"] - run_without_dropout_loss()) > 1e-3


def run_without_dropout_loss() -> float:
    return run(Partitioner(devices=jax.devices()[:1]), steps=1)[0][0]["loss"]


def test_parameters_and_slots_are_really_sharded():
    partitioner = Partitioner(num_partitions=2, fsdp=2)
    rate = schedules.create_learning_rate_scheduler(total_steps=10)
    optimizer = optimizers.create_optimizer("adamw", rate)
    state = step.init_state(CONFIG, optimizer, partitioner, seed=0)
    kernel = state.params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec("fsdp", "model")
    assert kernel.addressable_shards[0].data.shape == (16 // 2, 32 // 2)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel.shape]
    assert moments and all(m.sharding.spec == kernel.sharding.spec for m in moments)


def test_rules_from_gin_go_before_the_default_ones(plain):
    bindings = [
        "MODEL_DIR = 'unused'",
        "PartitionerConfig.num_partitions = 2",
        "PartitionerConfig.logical_axis_rules = (('mlp', None), ('vocab', 'data'))",
    ]
    found = gin_loader.load(["experiments/demo_step_by_step.gin"], bindings)
    partitioner = Partitioner.of(gin_loader.build("configs.TrainConfig", found).partitioner)
    rate = schedules.create_learning_rate_scheduler(total_steps=10)
    optimizer = optimizers.create_optimizer("adamw", rate)
    params = step.init_state(CONFIG, optimizer, partitioner, seed=0).params
    specs = {
        "wi_0": params["encoder"]["layers_0"]["mlp"]["wi_0"]["kernel"].sharding.spec,
        "query": params["encoder"]["layers_0"]["attention"]["query"]["kernel"].sharding.spec,
        "embedding": params["token_embedder"]["embedding"].sharding.spec,
    }
    assert specs == {
        "wi_0": PartitionSpec("fsdp", None),
        "query": PartitionSpec("fsdp", "model"),
        "embedding": PartitionSpec("data", "fsdp"),
    }
    assert_same(run(partitioner), plain)


def test_a_dimension_no_axis_divides_stays_whole():
    config = T5Config(**{**vars(CONFIG), "num_heads": 3})
    partitioner = Partitioner(num_partitions=8)
    rate = schedules.create_learning_rate_scheduler(total_steps=10)
    state = step.init_state(config, optimizers.create_optimizer("adamw", rate), partitioner, 0)
    bias = state.params["encoder"]["relpos_bias"]["rel_embedding"]
    assert bias.sharding.spec[0] is None


def test_devices_that_do_not_divide_are_named():
    with pytest.raises(UserError, match="num_partitions=3 x fsdp=1 does not divide the 8 devices"):
        Partitioner(num_partitions=3)


def test_starting_parameters_are_taken_over_and_adafactor_shards():
    partitioner = Partitioner(num_partitions=2)
    rate = schedules.create_learning_rate_scheduler(total_steps=10)
    optimizer = optimizers.create_optimizer("adafactor", rate)
    first = step.init_state(CONFIG, optimizer, partitioner, seed=3)
    again = step.init_state(CONFIG, optimizer, partitioner, 0, jax.device_get(first.params))
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy where jax keeps numpy's memory instead of copying it."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def places(state: object) -> dict[str, list[int]]:
    """Addresses of every array, a shard each."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path): [
            s.data.unsafe_buffer_pointer() for s in leaf.addressable_shards
        ]
        for path, leaf in leaves
    }


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("restored", [False, True])
def test_a_step_reuses_the_memory_of_the_state_it_is_given(restored, devices):
    partitioner = Partitioner(devices=jax.devices()[:devices])
    rate = schedules.create_learning_rate_scheduler(total_steps=10)
    optimizer = optimizers.create_optimizer("adamw", rate)
    params = jax.device_get(step.init_state(CONFIG, optimizer, partitioner, seed=3).params)
    state = step.init_state(CONFIG, optimizer, partitioner, 0, jax.tree.map(aligned, params))
    if restored:
        held = jax.tree.map(lambda leaf: aligned(np.asarray(leaf)), state)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        state = owned(jax.device_put(held, shardings), partitioner)
    weights = losses.task_weights(losses.TASKS, 0.5)
    train_step = step.make_train_step(CONFIG, optimizer, rate, weights, partitioner)
    before = places(state)
    state, _ = train_step(state, partitioner.put_batch(batch_with(0, packed=True)))
    assert places(state) == before


def test_every_seed_runs_the_same_program():
    partitioner = Partitioner(devices=jax.devices()[:1])
    rate = schedules.create_learning_rate_scheduler(total_steps=10)
    optimizer = optimizers.create_optimizer("adamw", rate)
    state = step.abstract_state(CONFIG, optimizer, partitioner)
    batch = {
        name: jax.ShapeDtypeStruct(rows.shape, rows.dtype)
        for name, rows in packing.pack(examples(0), ROWS, 16).items()
    }
    weights = losses.task_weights(losses.TASKS, 0.5)
    programs = []
    for seed in (0, 1):
        made = step.make_train_step(CONFIG, optimizer, rate, weights, partitioner, seed=seed)
        programs.append(made.func.lower(*made.args, state, batch).as_text())
    assert programs[0] == programs[1]
