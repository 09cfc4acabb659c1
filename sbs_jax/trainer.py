"""The training loop: prepare, restore, step, log, evaluate, save, report."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import optax

from sbs_jax import inputs, objective, optimizers, runs, scoring, step
from sbs_jax.batches import Batches, iterate
from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.store import Store
from sbs_jax.configs import TrainConfig
from sbs_jax.datasets import TEST, VALIDATION
from sbs_jax.errors import UserError
from sbs_jax.logs import MetricsLog, say
from sbs_jax.partitioning import Partitioner
from sbs_jax.scoring import Scorer
from sbs_jax.step import TrainState
from sbs_jax.stopping import StopRequest, stop_on_signal

_BEST_METRIC = "accuracy"


def train(config: TrainConfig, operative_config: str = "") -> dict:
    """Trains, or continues, the run of `config.model_dir` and scores its best checkpoint.

    Args:
        operative_config: gin text that reproduces `config`, written to MODEL_DIR/config.gin.

    Returns:
        The content of results.json.

    Raises:
        UserError: for data, vocabulary, checkpoint or MODEL_DIR that do not fit.
        SystemExit: 130 or 143 after Ctrl-C or SIGTERM, once the state is saved.
    """
    model_dir = Path(config.model_dir)
    source = inputs.Source.of(config)
    runs.refuse_another(config, source.fingerprints())
    partitioner = Partitioner.of(config.partitioner)
    microbatches = config.partitioner.num_microbatches
    batches = inputs.training_batches(source, config, partitioner.batch_shards * microbatches)
    batches = batches.shard(jax.process_index(), jax.process_count())
    say(str(batches.plan))
    schedule = optimizers.learning_rate_of(config.optimizer, config.train_steps)
    optimizer = optimizers.optimizer_of(config.optimizer, schedule)
    tasks = tuple(objective.TASKS[view.task_id - 1] for view in source.selection.views)
    train_step = step.make_train_step(
        config.model,
        optimizer,
        schedule,
        objective.coefficients(tasks, config.alpha),
        partitioner,
        seed=config.random_seed,
        segments=batches.plan.segments,
        num_microbatches=microbatches,
    )
    initial_params = _initial_params(config)
    runs.claim(config, source.fingerprints(), operative_config)
    store = Store(model_dir / "checkpoints", config.keep_latest, _BEST_METRIC)
    state = _restore(config, store, optimizer, partitioner, initial_params)
    scorer = Scorer(config, source, partitioner)
    first = int(state.step)
    log = MetricsLog(model_dir, first, config.train_steps)
    with stop_on_signal() as stop:
        updates = _updates(first, state, train_step, batches, partitioner, config, log)
        for done, state in updates:
            if done % config.eval_period == 0 or done == config.train_steps:
                accuracy = scorer(VALIDATION, state.params).accuracy
                say(f"step {done}  validation accuracy {accuracy}")
                log.write(done, {"validation/accuracy": accuracy.value})
                store.save(done, state, {}, {_BEST_METRIC: accuracy.value})
            if stop:
                _save_and_exit(store, done, state, stop)
    log.close()
    store.wait()
    summary = _report(config, store, state, scorer)
    store.close()
    return summary


def _updates(
    first: int,
    state: TrainState,
    train_step: Callable,
    batches: Batches,
    partitioner: Partitioner,
    config: TrainConfig,
    log: MetricsLog,
) -> Iterator[tuple[int, TrainState]]:
    """Yields (updates done, state) after every update; fetches and logs metrics once a period."""
    pending: list[dict[str, jax.Array]] = []
    began, cpu_began = time.monotonic(), time.process_time()
    for index, batch in iterate(batches, first, config.train_steps):
        state, metrics = train_step(state, partitioner.put_batch(batch))
        pending.append(metrics)
        done = index + 1
        if index == first:
            jax.block_until_ready(metrics)
            say(f"first step (with compilation) after {time.monotonic() - began:.1f} s")
        if done % config.log_period == 0 or done == config.train_steps or done == first + 1:
            scalars = _summarise(jax.device_get(pending), done, batches)
            pace = (time.monotonic() - began) / len(pending)
            scalars["examples_per_second"] = config.batch_size / pace
            if done > first + 1:  # the first step's are the compiler's
                scalars["cpu_seconds"] = time.process_time() - cpu_began
            log.write(done, scalars)
            log.progress(done, scalars, seconds_left=pace * (config.train_steps - done))
            pending = []
        yield done, state
        if not pending:
            # What the caller did, such as an evaluation, does not count.
            began, cpu_began = time.monotonic(), time.process_time()


def _summarise(
    fetched: list[dict[str, np.ndarray]], done: int, batches: Batches
) -> dict[str, float]:
    """A period's scalars: losses as token means over the period, the rest of its last step."""
    for offset, metrics in enumerate(fetched):
        if not np.isfinite(metrics["loss"]) or not np.isfinite(metrics["grad_norm"]):
            index = done - len(fetched) + offset
            raise UserError(
                f"step {index + 1}: the loss or its gradient is not finite "
                f"(questions {', '.join(batches.ids(index)[:8])}, ...); lower LEARNING_RATE, or "
                "set DTYPE to float32. The last checkpoint is intact"
            )
    last = fetched[-1]
    scalars = {"loss": float(np.mean([metrics["loss"] for metrics in fetched]))}
    for task in objective.TASKS:
        count = sum(float(metrics[f"{task}/tokens"]) for metrics in fetched)
        if count:
            total = sum(float(metrics[f"{task}/loss_sum"]) for metrics in fetched)
            hits = sum(float(metrics[f"{task}/correct_tokens"]) for metrics in fetched)
            scalars[f"{task}/loss"] = total / count
            scalars[f"{task}/token_accuracy"] = hits / count
    scalars["learning_rate"] = float(last["learning_rate"])
    scalars["grad_norm"] = float(last["grad_norm"])
    return scalars


def _initial_params(config: TrainConfig) -> dict | None:
    if not config.initial_checkpoint_path or runs.exists(config.model_dir):
        return None
    return initial.load_params(config.initial_checkpoint_path, config.model)


def _restore(
    config: TrainConfig,
    store: Store,
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
    initial_params: dict | None,
) -> TrainState:
    """Where a run starts: 1. MODEL_DIR, else 2. INITIAL_CHECKPOINT_PATH, else 3. random."""
    if store.steps():
        shapes = step.abstract_state(config.model, optimizer, partitioner)
        state, _ = store.restore_latest(shapes)
        say(f"continues from step {int(state.step)} of {config.model_dir}")
        return state
    origin = config.initial_checkpoint_path if initial_params else "random parameters"
    say(f"starts from {origin}")
    return step.init_state(config.model, optimizer, partitioner, config.random_seed, initial_params)


def _save_and_exit(store: Store, done: int, state: TrainState, stop: StopRequest) -> None:
    if done not in store.steps():
        store.save(done, state, {}, None)
    store.close()
    say(f"stopped at step {done}, saved; the same command continues")
    raise SystemExit(stop.exit_code)


def _report(config: TrainConfig, store: Store, state: TrainState, scorer: Scorer) -> dict:
    """Scores the best checkpoint on validation and test, unless that was done before."""
    best = store.best_step()
    summary = scoring.finished(config, best)
    if summary:
        say(f"{config.model_dir}: already complete; results.json stands")
        return summary
    same = best == int(state.step)
    params = state.params if same else store.restore_params(best, state.params)
    results = [scorer(name, params, final=True) for name in (VALIDATION, TEST)]
    return scoring.write_report(config, best, results, scorer.metric, params)
