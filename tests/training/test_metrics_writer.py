"""Updates that are not finite, and how often the train step is traced."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.runs import MODEL, config_of, final_params, metrics_of

from sbs_jax.checkpoints import initial
from sbs_jax.configs import OptimizerConfig, TrainConfig
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import pipeline
from sbs_jax.input_pipeline.batches import Batches
from sbs_jax.training import losses, optimizers, schedules, trainer
from sbs_jax.training import train_step as step
from sbs_jax.training.metrics_writer import VALIDATION_ACCURACY, MetricsLog

BAD = 5  # index of the batch that is made to fail; update 6


def batches_of(config: TrainConfig) -> Batches:
    return pipeline.training_batches(pipeline.Source.of(config), config, 8)


def spoil(monkeypatch: pytest.MonkeyPatch, mark: int) -> None:
    """The batch whose input ids sum to `mark` has neither a finite loss nor a finite gradient."""
    real = losses.task_sums

    def task_sums(logits: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
        sums, hits = real(logits, batch)
        found = jnp.sum(batch["encoder_input_tokens"]) == mark
        return sums * jnp.where(found, jnp.nan, 1.0), hits

    monkeypatch.setattr(losses, "task_sums", task_sums)


@pytest.fixture
def config(tmp_path, monkeypatch) -> TrainConfig:
    """A run whose update 6 is not finite, and which logs too rarely to see that at once."""
    # A width of its own: nothing traced before, with the real objective, is used again.
    model = dataclasses.replace(MODEL, mlp_dim=40)
    made = config_of(tmp_path / "run", model=model, log_period=100)
    batches = batches_of(made)
    marks = [int(batches[index]["encoder_input_tokens"].sum()) for index in range(len(batches))]
    assert marks.count(marks[BAD]) == 1
    spoil(monkeypatch, marks[BAD])
    return made


def checkpoints(model_dir: str) -> list[int]:
    names = [path.name for path in (Path(model_dir) / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def test_scores_that_are_measured_again_replace_the_old_ones(tmp_path):
    config = config_of(tmp_path / "run")
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "metrics.jsonl"
    first = MetricsLog(config, 0)
    for number in (1, 2, 3):
        first.write(number, {"loss": 0.5})
        first.write(number, {VALIDATION_ACCURACY: 0.25})
    first.close()
    again = MetricsLog(config, 3)
    again.drop_scores([1, 3])
    for number in (1, 3):
        again.write(number, {VALIDATION_ACCURACY: 0.75})
    again.write(3, {"loss": 9.0})  # logged before
    again.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row.get("loss"), row.get(VALIDATION_ACCURACY)) for row in rows] == [
        (1, 0.5, None),
        (2, 0.5, None),
        (2, None, 0.25),
        (3, 0.5, None),
        (1, None, 0.75),
        (3, None, 0.75),
    ]


@pytest.mark.slow
def test_a_run_stops_before_it_saves_what_is_not_finite(config):
    asked = ", ".join(batches_of(config).ids(BAD))
    with pytest.raises(UserError) as caught:
        trainer.train(config)
    message = str(caught.value)
    assert message.startswith("step 6: the loss or its gradient is not finite (questions " + asked)
    assert "Checkpoints: that of step 4 is finite" in message and "\n" not in message
    assert "bind TrainConfig.on_nonfinite = 'skip' or 'reduce'" in message
    assert checkpoints(config.model_dir) == [4]


@pytest.mark.slow
def test_the_advice_works_the_update_is_skipped_and_counted(config):
    with pytest.raises(UserError, match="step 6"):
        trainer.train(config)
    trainer.train(dataclasses.replace(config, on_nonfinite="skip"))
    rows = metrics_of(Path(config.model_dir))
    assert [row.get("skipped_updates") for row in rows if row["step"] > 4] == [None, 1.0]
    assert all(np.isfinite(value) for row in rows for value in row.values())
    summary = json.loads((Path(config.model_dir) / "results.json").read_text())
    assert summary["train_steps"] == 12


@pytest.mark.slow
def test_before_the_first_checkpoint_the_error_says_so(config):
    with pytest.raises(UserError, match=r"step 6: .* Checkpoints: none yet"):
        trainer.train(dataclasses.replace(config, eval_period=12))


@pytest.mark.slow
def test_reducing_halves_the_rate_for_the_rest_of_the_run(config):
    halved = dataclasses.replace(config, on_nonfinite="reduce", log_period=1)
    trainer.train(dataclasses.replace(halved, train_steps=8))
    trainer.train(dataclasses.replace(halved, train_steps=12))  # continued: still halved
    plain = schedules.learning_rate_of(config.optimizer, 8)
    longer = schedules.learning_rate_of(config.optimizer, 12)
    rates = {
        row["step"]: row["learning_rate"]
        for row in metrics_of(Path(config.model_dir))
        if "learning_rate" in row
    }
    assert rates[5] == pytest.approx(float(plain(4)), rel=1e-6)
    assert BAD + 1 not in rates
    assert rates[7] == pytest.approx(0.5 * float(plain(6)), rel=1e-6)
    assert rates[12] == pytest.approx(0.5 * float(longer(11)), rel=1e-6)


@pytest.mark.slow
def test_a_reduced_rate_moves_the_parameters_half_as_far(config):
    """Adam's first update is the rate times a sign, whatever the gradient."""
    rate = schedules.create_learning_rate_scheduler("constant", 1e-2)
    optimizer = optimizers.create_optimizer("adamw", rate)
    partitioner = Partitioner(num_partitions=2)
    weights = losses.task_weights(losses.TASKS, 0.5)
    train_step = step.make_train_step(
        config.model, optimizer, rate, weights, partitioner, max_segments=99, on_nonfinite="reduce"
    )
    batches = batches_of(config)

    def moved(indices: tuple[int, ...]) -> float:
        state = step.init_state(config.model, optimizer, partitioner, seed=0)
        start = jax.device_get(state.params)
        for index in indices:
            state, _ = train_step(state, partitioner.put_batch(batches[index]))
        distances = jax.tree.map(lambda a, b: np.abs(a - b), jax.device_get(state.params), start)
        return np.median(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(distances)]))

    assert moved((0,)) == pytest.approx(1e-2, rel=1e-3)
    assert moved((BAD, 0)) == pytest.approx(0.5e-2, rel=1e-3)


@pytest.mark.parametrize("preset", ["adamw", "adafactor"])
@pytest.mark.parametrize("param_dtype", ["float32", "bfloat16"])
def test_skipping_costs_no_second_state(config, preset, param_dtype):
    model = dataclasses.replace(config.model, param_dtype=param_dtype)
    rate = schedules.create_learning_rate_scheduler("constant", 1e-2)
    optimizer = optimizers.create_optimizer(preset, rate)
    partitioner = Partitioner(devices=jax.devices()[:1])
    shapes = step.abstract_state(model, optimizer, partitioner)
    batch = partitioner.put_batch(batches_of(config)[0])

    def temporaries(on_nonfinite: str) -> int:
        weights = losses.task_weights(losses.TASKS, 0.5)
        train_step = step.make_train_step(
            model, optimizer, rate, weights, partitioner, on_nonfinite=on_nonfinite
        )
        compiled = train_step.func.lower(*train_step.args, shapes, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes.params))
    assert temporaries("skip") - temporaries("stop") < parameters / 2


@pytest.mark.slow
def test_skipping_gives_up_at_the_tenth_in_a_row(tmp_path):
    wild = OptimizerConfig(learning_rate=1e30, clip_norm=None)
    config = config_of(tmp_path / "run", optimizer=wild, on_nonfinite="skip", train_steps=40)
    with pytest.raises(UserError, match=r"step \d+: .* not finite 10 times in a row"):
        trainer.train(config)


def slots(state: step.TrainState) -> optax.ScaleByAdamState:
    """Adam's: moments, and the number of updates that went into them."""

    def is_adam(node: object) -> bool:
        return isinstance(node, optax.ScaleByAdamState)

    found = jax.tree.leaves(state.opt_state, is_leaf=is_adam)
    return next(node for node in found if is_adam(node))


@pytest.mark.slow
@pytest.mark.parametrize("on_nonfinite", ["skip", "reduce"])
def test_the_schedule_goes_on_over_skipped_updates(config, on_nonfinite):
    """What is logged as the learning rate is how far Adam's first update moves the parameters."""
    rate = schedules.create_learning_rate_scheduler(base_learning_rate=1e-2, total_steps=4)
    optimizer = optimizers.create_optimizer("adamw", rate)
    partitioner = Partitioner(devices=jax.devices()[:1])
    weights = losses.task_weights(losses.TASKS, 0.5)
    train_step = step.make_train_step(
        config.model,
        optimizer,
        rate,
        weights,
        partitioner,
        max_segments=99,
        on_nonfinite=on_nonfinite,
    )
    batches = batches_of(config)
    state = step.init_state(config.model, optimizer, partitioner, seed=0)
    before = jax.device_get(state.params)
    for index in (BAD, BAD, 0):
        state, metrics = train_step(state, partitioner.put_batch(batches[index]))
    after = jax.device_get(state.params)
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: np.ravel(np.abs(a - b)), before, after))
    logged = float(metrics["learning_rate"])
    assert logged == pytest.approx(1e-2 * 0.5 * (0.25 if on_nonfinite == "reduce" else 1.0))
    assert np.median(np.concatenate(moved)) == pytest.approx(logged, rel=1e-3)


@pytest.mark.slow
def test_parameters_that_overflow_are_never_saved(tmp_path):
    """Loss and gradient of the first update are fine; what it makes of the parameters is not."""
    wild = OptimizerConfig(learning_rate=3e38, factors="constant", weight_decay=10.0)
    config = config_of(tmp_path / "run", optimizer=wild, checkpoint_period=1)
    with pytest.raises(UserError, match=r"^step 1: the updated parameters are not finite .* none"):
        trainer.train(config)
    assert checkpoints(config.model_dir) == []
    with pytest.raises(UserError, match="not finite 10 times in a row"):
        trainer.train(dataclasses.replace(config, on_nonfinite="skip"))
    kept = initial.load_params(f"{config.model_dir}/checkpoints/9", config.model)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))


@pytest.mark.slow
def test_a_skipped_update_leaves_everything_but_the_step(config):
    rate = schedules.create_learning_rate_scheduler(base_learning_rate=1e-2, total_steps=10)
    optimizer = optimizers.create_optimizer("adamw", rate)
    partitioner = Partitioner(num_partitions=2)
    weights = losses.task_weights(losses.TASKS, 0.5)
    train_step = step.make_train_step(
        config.model, optimizer, rate, weights, partitioner, max_segments=99, on_nonfinite="skip"
    )
    batches = batches_of(config)
    state = step.init_state(config.model, optimizer, partitioner, seed=0)
    state, _ = train_step(state, partitioner.put_batch(batches[0]))
    before = jax.device_get((state.params, slots(state)))
    state, metrics = train_step(state, partitioner.put_batch(batches[BAD]))
    assert not np.isfinite(metrics["loss"])
    after = jax.device_get((state.params, slots(state)))
    jax.tree.map(np.testing.assert_array_equal, after, before)
    state, metrics = train_step(state, partitioner.put_batch(batches[1]))
    assert int(state.step) == 3 and np.isfinite(metrics["loss"])
    moved = jax.tree.leaves(jax.device_get(state.params))
    assert all(np.any(a != b) for a, b in zip(moved, jax.tree.leaves(before[0]), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("pack", [True, False])
def test_the_train_step_is_traced_once_in_a_run(tmp_path, monkeypatch, pack):
    """Varying batches, two evaluations in the middle, and the final one."""
    traced, real = [], losses.task_sums

    def counted(logits: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
        traced.append(logits.shape)
        return real(logits, batch)

    monkeypatch.setattr(losses, "task_sums", counted)
    model = dataclasses.replace(MODEL, mlp_dim=48 if pack else 56)
    config = config_of(tmp_path / "run", model=model, pack=pack, row_lengths=None)
    trainer.train(config)
    assert len(traced) == 1, traced


@pytest.mark.slow
def test_a_checkpoint_may_come_more_often_than_an_evaluation(tmp_path):
    config = config_of(tmp_path / "run", train_steps=7, eval_period=7, checkpoint_period=3)
    trainer.train(dataclasses.replace(config, keep_latest=9))
    assert checkpoints(config.model_dir) == [3, 6, 7]
    assert final_params(tmp_path / "run")
