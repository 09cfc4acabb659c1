"""bfloat16 parameters: unbiased rounding, float32 slots, training where the nearest would stall."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from helpers.examples import CONFIG, examples
from helpers.runs import MODEL, config_of, final_params
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_jax.checkpoints.convert import convert
from sbs_jax.configs import OptimizerConfig, T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.input_pipeline import packing
from sbs_jax.models.t5 import init_params
from sbs_jax.training import losses as objective
from sbs_jax.training import optimizers, schedules, stochastic_rounding, trainer
from sbs_jax.training import train_step as step
from sbs_jax.training.stochastic_rounding import stochastic_round
from sbs_jax.training.train_step import make_gradients

BFLOAT16 = dataclasses.replace(CONFIG, param_dtype="bfloat16")


@settings(max_examples=50, deadline=None)
@given(st.floats(width=32), st.integers(0, 2**32 - 1))
def test_the_result_is_a_neighbour_and_exact_values_stay(value, seed):
    x = jnp.full((64,), value, jnp.float32)
    found = np.asarray(stochastic_round(x, jax.random.key(seed))).astype(np.float32)
    if np.isnan(value):
        assert np.isnan(found).all()
        return
    bits = np.float32(value).view(np.uint32)
    lower = (bits & np.uint32(0xFFFF0000)).view(np.float32)
    if lower == value or np.isinf(value):
        assert (found == np.float32(value)).all()
        return
    upper = ((bits & np.uint32(0xFFFF0000)) + np.uint32(0x10000)).view(np.float32)
    assert np.isin(found, [lower, upper]).all()


@pytest.mark.parametrize("value", [1.0 + 2.0**-11, -3.14159, 1e-38 * 1.2345, 0.75 + 2.0**-12])
def test_rounding_is_right_in_the_mean(value):
    n = 1 << 18
    x = jnp.full((n,), value, jnp.float32)
    found = np.asarray(stochastic_round(x, jax.random.key(0))).astype(np.float64)
    exact = float(np.float32(value))
    step_size = np.ptp(found)
    assert step_size > 0
    # Five standard errors of a coin's mean, at most half a step over sqrt(n) each.
    assert abs(found.mean() - exact) < 5 * step_size / 2 / np.sqrt(n)


def test_an_update_too_small_for_bfloat16_arrives_in_the_mean():
    params = {"kernel": jnp.ones((256, 256), jnp.bfloat16), "scale": jnp.ones((4,), jnp.float32)}
    updates = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-4, jnp.float32), params)
    assert jnp.bfloat16(1.0) + jnp.bfloat16(1e-4) == 1.0, "to the nearest it would be lost"
    for number in range(20):
        rng = jax.random.key(number)
        params = stochastic_rounding.apply_updates(params, updates, jnp.float32(0.5), rng)
    assert params["kernel"].dtype == jnp.bfloat16 and params["scale"].dtype == jnp.float32
    # Twenty sums in float32, each off by at most half a step of 2**-23.
    np.testing.assert_allclose(params["scale"], 1.001, rtol=20 * 2**-24)
    mean = float(np.asarray(params["kernel"]).astype(np.float64).mean())
    assert mean == pytest.approx(1.001, abs=1e-4)


def test_leaves_are_rounded_by_different_bits():
    params = {name: jnp.ones((64,), jnp.bfloat16) for name in "ab"}
    updates = {name: jnp.full((64,), 2.0**-9, jnp.float32) for name in "ab"}
    found = stochastic_rounding.apply_updates(params, updates, jnp.float32(1), jax.random.key(0))
    assert np.any(np.asarray(found["a"]) != np.asarray(found["b"]))


@pytest.mark.parametrize("preset", ["adamw", "adamw_hf", "adafactor"])
def test_slots_stay_float32(preset):
    rate = schedules.create_learning_rate_scheduler(total_steps=10)
    optimizer = optimizers.create_optimizer(preset, rate)
    state = step.init_state(BFLOAT16, optimizer, Partitioner(num_partitions=2), seed=0)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(state.params)}
    assert kinds == {np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)}
    floating = [
        leaf.dtype
        for leaf in jax.tree.leaves(state.opt_state)
        if jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    assert floating and set(floating) == {np.dtype(np.float32)}


def run(
    config: T5Config, devices: int, steps: int, *, rate: float = 1e-3, microbatches: int = 1
) -> tuple[list[float], dict]:
    """Losses and final parameters; every run starts from the same ones, as far as its dtype can."""
    schedule = schedules.create_learning_rate_scheduler("constant", rate)
    optimizer = optimizers.create_optimizer("adamw", schedule)
    partitioner = Partitioner(devices=jax.devices()[:devices])
    weights = objective.task_weights(objective.TASKS, 0.5)
    train_step = step.make_train_step(
        config, optimizer, schedule, weights, partitioner, num_microbatches=microbatches
    )
    wide = dataclasses.replace(config, param_dtype="float32")
    params = jax.device_get(init_params(wide, jax.random.key(0)))
    state = step.init_state(config, optimizer, partitioner, 0, params)
    batch = partitioner.put_batch(packing.pack(examples(0), packing.RowLengths(24, 16), 16))
    losses = []
    for _ in range(steps):
        state, metrics = train_step(state, batch)
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state.params)


@pytest.mark.slow
def test_it_learns_as_float32_does_at_a_rate_that_rounding_to_nearest_loses(monkeypatch):
    def learned(config: T5Config) -> float:
        losses, _ = run(config, 1, 60, rate=1e-4)
        return losses[0] - losses[-1]

    exact = learned(CONFIG)
    assert exact > 0.2
    assert learned(BFLOAT16) == pytest.approx(exact, rel=0.1)
    monkeypatch.setattr(
        stochastic_rounding, "stochastic_round", lambda x, rng: x.astype(jnp.bfloat16)
    )
    # A width of its own: what was traced with the real rounding is not used again.
    assert learned(dataclasses.replace(BFLOAT16, mlp_dim=40)) < 0.5 * exact


@pytest.mark.slow
def test_rounding_depends_on_seed_and_step_not_on_the_mesh():
    (_, one), (_, many) = run(BFLOAT16, 1, 1), run(BFLOAT16, 8, 1)
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
    pairs = [(np.ravel(a).astype(np.float32), np.ravel(b).astype(np.float32)) for a, b in leaves]
    ours, theirs = (np.concatenate(side) for side in zip(*pairs, strict=True))
    assert np.mean(ours != theirs) < 1e-3
    # Adam's first update is the gradient's sign: where that is noise, twice the rate apart.
    np.testing.assert_allclose(ours, theirs, rtol=2**-7, atol=2e-3)


@pytest.mark.slow
def test_micro_batches_add_up_in_float32():
    """Sixteen gradients of bfloat16 parameters: summed in bfloat16 they would lose much more."""
    params = init_params(BFLOAT16, jax.random.key(0))
    batch = packing.pack(examples(0), packing.RowLengths(24, 16), 16)
    weights = objective.task_weights(objective.TASKS, 0.5)

    def flat(config: T5Config, groups: int) -> np.ndarray:
        gradients = make_gradients(config, weights, num_microbatches=groups)
        cast = jax.tree.map(lambda p: p.astype(jnp.float32), params)
        found = jax.jit(gradients)(
            params if config is BFLOAT16 else cast, batch, jax.random.key(0)
        ).grads
        return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])

    exact = flat(CONFIG, 1)
    error = np.linalg.norm(flat(BFLOAT16, 16) - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.002


def test_the_gradient_of_a_frequent_token_is_whole():
    """Added up in bfloat16 it stands still (findings/jax_gradients_summed_in_bfloat16.sh)."""
    often = np.append(np.full(95, 7), 1).astype(np.int32)
    frequent = [(often, often, 1 + i % 2) for i in range(16)]
    batch = packing.pack(frequent, packing.RowLengths(96, 96), 16)
    params = init_params(BFLOAT16, jax.random.key(0))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)

    def gradient(config: T5Config, params: dict) -> np.ndarray:
        gradients = make_gradients(config, objective.task_weights(objective.TASKS, 0.5))
        found = jax.jit(gradients)(params, batch, jax.random.key(0))
        return np.asarray(found.grads["token_embedder"]["embedding"], np.float32)[7]

    np.testing.assert_allclose(gradient(BFLOAT16, params), gradient(CONFIG, wide), rtol=1e-5)


def test_in_float32_changes_nothing_for_float32():
    plain = optax.adam(1e-2)
    wide = stochastic_rounding.in_float32(plain)
    params = {"w": jnp.arange(4.0)}
    grads = {"w": jnp.ones(4)}
    ours = wide.update(grads, wide.init(params), params)
    theirs = plain.update(grads, plain.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.slow
def test_a_run_continues_bit_for_bit_and_its_student_converts(tmp_path):
    """All that saves memory at once: bfloat16 parameters and computation, remat, scan."""
    model = dataclasses.replace(
        MODEL, dtype="bfloat16", param_dtype="bfloat16", remat_policy="full", scan_layers=True
    )
    steady = OptimizerConfig(learning_rate=1e-2, factors="constant")
    whole, parts = (
        config_of(tmp_path / name, model=model, optimizer=steady) for name in ("whole", "parts")
    )
    trainer.train(whole)
    trainer.train(dataclasses.replace(parts, train_steps=4))
    trainer.train(parts)
    found, wanted = (final_params(tmp_path / name, model) for name in ("parts", "whole"))
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes()
    done = convert(str(tmp_path / "whole"), str(tmp_path / "hf"), "hf")
    assert done.logits and done.written.kind == "hf"
