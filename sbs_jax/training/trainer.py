"""The training loop: prepare, restore, step, log, evaluate, save, report."""

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import optax

from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.manager import Store, newest_checkpoint
from sbs_jax.configs import TrainConfig
from sbs_jax.datasets.registry import TEST, VALIDATION
from sbs_jax.distributed import multihost
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.distributed.preemption import StopRequest, stop_on_signal
from sbs_jax.errors import UserError
from sbs_jax.evaluation import results as scoring
from sbs_jax.evaluation.results import Scorer
from sbs_jax.input_pipeline import pipeline
from sbs_jax.input_pipeline.batches import Batches
from sbs_jax.runs import run_dir
from sbs_jax.training import losses, optimizers, updates
from sbs_jax.training import train_step as step
from sbs_jax.training.metrics_writer import MetricsLog
from sbs_jax.training.train_step import TrainState
from sbs_jax.utils.console import say

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
    with multihost.together("preparation"):
        source = pipeline.Source.of(config)
        run_dir.refuse_another(config, source.fingerprints())
        _refuse_fewer_steps(config)
        partitioner = Partitioner.of(config.partitioner)
        batches = _batches(config, source, partitioner)
        initial_params = _initial_params(config)
    fingerprints = source.fingerprints()
    run_dir.check_same(config, fingerprints)
    say(str(batches.plan))
    scorer = Scorer(config, source, partitioner)
    with run_dir.claimed(config, fingerprints, operative_config):
        latest, best = config.keep_latest, config.keep_best
        store = Store(_checkpoints(config), latest, _BEST_METRIC, keep_best=best)
        optimizer, train_step = _compiled_by_need(config, source, partitioner, batches)
        state = _restore(config, store, optimizer, partitioner, initial_params)
        first = int(state.step)
        log = MetricsLog(Path(config.model_dir), first, config.train_steps)
        meter = updates.Meter(batches, config, last_checkpoint=lambda: _newest(store))
        progress = updates.run(first, state, train_step, batches, partitioner, config, log, meter)
        with stop_on_signal() as stop:
            for done, state in progress:
                scores = None
                if done % config.eval_period == 0 or done == config.train_steps:
                    meter.check()
                    accuracy = scorer(VALIDATION, state.params).accuracy
                    say(f"step {done}  validation accuracy {accuracy}")
                    log.write(done, {"validation/accuracy": accuracy.value})
                    scores = {_BEST_METRIC: accuracy.value}
                stopping = stop.granted(done)
                period = config.checkpoint_period or config.eval_period
                if scores or stopping or done % period == 0:
                    meter.check()
                    store.save(done, state, {}, scores)
                if stopping:
                    _stop(stop, store, log, done)
            log.close()
            store.wait()
            summary = _report(config, store, state, scorer, stop)
        store.close()
        return summary


def _stop(stop: StopRequest, store: Store, log: MetricsLog, done: int) -> NoReturn:
    store.close()
    log.close()
    say(f"stopped at step {done}, saved; the same command continues")
    raise SystemExit(stop.exit_code)


def _refuse_fewer_steps(config: TrainConfig) -> None:
    done = newest_checkpoint(_checkpoints(config))
    if done is not None and done > config.train_steps:
        raise UserError(
            f"TRAIN_STEPS = {config.train_steps}: {config.model_dir} has done {done} updates "
            "already; give more, or choose another MODEL_DIR"
        )


def _batches(config: TrainConfig, source: pipeline.Source, partitioner: Partitioner) -> Batches:
    """This host's share of the run's batches."""
    multiple = partitioner.batch_shards * config.partitioner.num_microbatches
    accelerator = partitioner.mesh.devices.flat[0].platform != "cpu"
    batches = pipeline.training_batches(source, config, multiple, accelerator)
    return batches.shard(*partitioner.host_block)


def _compiled_by_need(
    config: TrainConfig, source: pipeline.Source, partitioner: Partitioner, batches: Batches
) -> tuple[optax.GradientTransformation, Callable]:
    """The optimizer, and the train step, which compiles when it is first called."""
    schedule = optimizers.learning_rate_of(config.optimizer, config.train_steps)
    optimizer = optimizers.optimizer_of(config.optimizer, schedule)
    tasks = tuple(losses.TASKS[view.task_id - 1] for view in source.selection.views)
    train_step = step.make_train_step(
        config.model,
        optimizer,
        schedule,
        losses.coefficients(tasks, config.alpha),
        partitioner,
        seed=config.random_seed,
        segments=batches.plan.segments,
        num_microbatches=config.partitioner.num_microbatches,
        on_nonfinite=config.on_nonfinite,
    )
    return optimizer, train_step


def _checkpoints(config: TrainConfig) -> Path:
    return Path(config.model_dir) / "checkpoints"


def _newest(store: Store) -> int | None:
    store.wait()
    return store.latest_step()


def _initial_params(config: TrainConfig) -> dict | None:
    # MODEL_DIR alone tells nothing: the run may have been killed before its first checkpoint.
    if not config.initial_checkpoint_path or newest_checkpoint(_checkpoints(config)) is not None:
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


def _report(
    config: TrainConfig, store: Store, state: TrainState, scorer: Scorer, stop: StopRequest
) -> dict:
    """Scores the best checkpoint on validation and test, unless that was done before."""
    best = store.best_step()
    summary = scoring.finished(config, best)
    if summary:
        say(f"{config.model_dir}: already complete; results.json stands")
        return summary
    same = best == int(state.step)
    params = state.params if same else store.restore_params(best, state.params)
    results = []
    for number, name in enumerate((VALIDATION, TEST), start=1):
        # Counted on as if they were updates: several processes agree on where to stop.
        if stop.granted(config.train_steps + number):
            say("stopped before the final scores; the same command makes them")
            raise SystemExit(stop.exit_code)
        results.append(scorer(name, params, final=True))
    return scoring.write_report(config, best, results, scorer.metric, params)
