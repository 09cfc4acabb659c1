"""The training loop: prepare, restore, update, log, save, stop, evaluate, report."""

import contextlib
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import optax

from sbs_jax.checkpoints.manager import CheckpointManager
from sbs_jax.configs import TrainConfig
from sbs_jax.datasets.registry import TEST, VALIDATION
from sbs_jax.distributed import multihost
from sbs_jax.distributed.preemption import StopRequest, stop_on_signal
from sbs_jax.errors import UserError
from sbs_jax.evaluation import results
from sbs_jax.input_pipeline.batches import iterate
from sbs_jax.runs import layout, run_dir
from sbs_jax.training import devices, losses, optimizers, run_summary, schedules
from sbs_jax.training import train_step as step
from sbs_jax.training.metrics_writer import VALIDATION_ACCURACY, MetricsLog, StepMetrics
from sbs_jax.training.phases import Phases, Profiler
from sbs_jax.training.preparation import Run, prepare
from sbs_jax.training.train_state import TrainState, named_state, owned, stacked_state
from sbs_jax.utils.console import say

_BEST_METRIC = "accuracy"


def train(
    config: TrainConfig,
    operative_config: str = "",
    *,
    profile_steps: int = 0,
    tracker: str = "tensorboard",
    started: float | None = None,
) -> dict[str, Any]:
    """Trains, or continues, the run of `config.model_dir` and scores its best checkpoint.

    Args:
        config: of the run.
        operative_config: gin text that reproduces `config`, written to MODEL_DIR/config.gin.
        profile_steps: updates of which a profile is written to MODEL_DIR/profile.
        tracker: `tensorboard`, or `wandb` or `mlflow` in addition.
        started: `time.monotonic()` at the start of the program, for the printed phases.

    Returns:
        The content of results.json.

    Raises:
        UserError: data, vocabulary, checkpoint or MODEL_DIR do not fit.
        SystemExit: 130 or 143 after Ctrl-C or SIGTERM, once the state is saved.
    """
    phases = Phases(started)
    run = prepare(config, phases)
    config, batches, partitioner = run.config, run.batches, run.partitioner
    with run_dir.claimed(config, run.fingerprints, operative_config):
        store = _open_store(config)
        optimizer, jitted, stacked = _make_step(run)
        state = _restore(run, store, optimizer)
        first, last = int(state.step), config.train_steps
        phases.end("parameters")
        log = MetricsLog(config, first, tracker)
        _evaluate_restored(run, store, state, log)
        shapes = step.abstract_state(config.model, optimizer, partitioner, stacked)
        update = run_summary.introduce(run, state, jitted, shapes, first, phases)
        metrics_of_steps = StepMetrics(batches, config, lambda: _newest(store))
        profiler = Profiler(config.model_dir, first, profile_steps)

        with stop_on_signal() as stop:
            log.start_period()
            for index, batch in iterate(batches, first, last, put=partitioner.put_batch):
                profiler.before(index, state)
                state = stacked_state(state) if stacked else state
                state, metrics = update(state, batch)
                devices.keep_pace(partitioner.platform, metrics)
                done = index + 1
                metrics_of_steps.add(index, metrics)
                log.count_update()
                multihost.sign_of_progress()
                if index == first:
                    phases.first_update(metrics)

                # 1. Log: one line per period; waits for the devices.
                if done in (first + 1, last) or done % config.log_period == 0:
                    log.end_period(done, metrics_of_steps.summarize())

                # 2. Save: before the evaluation, which may fail, and never what is not finite.
                stopping = stop.granted(done)
                evaluating = done == last or done % config.eval_period == 0
                period = config.checkpoint_period or config.eval_period
                with log.paused():
                    if evaluating or stopping or done % period == 0:
                        metrics_of_steps.check()
                        state = named_state(state)
                        log.flush()
                        store.save(done, state)

                    # 3. Stop: after Ctrl-C or preemption; the next start evaluates if it is due.
                    if stopping:
                        _stop(stop, store, log, done)

                    # 4. Evaluate: the score ranks the checkpoint that was just saved.
                    if evaluating:
                        _evaluate(run, store, log, [(done, state.params)])

            # 5. Report: the best checkpoint on validation and test.
            profiler.close(last, state)
            store.wait()
            with contextlib.closing(log):
                summary = _report(run, store, state, stop, log)
        store.close()
        return summary


def _open_store(config: TrainConfig) -> CheckpointManager:
    return CheckpointManager(
        layout.checkpoints(config.model_dir),
        config.keep_latest,
        _BEST_METRIC,
        keep_best=config.keep_best,
    )


def _newest(store: CheckpointManager) -> int | None:
    store.wait()
    return store.latest_step()


def _make_step(run: Run) -> tuple[optax.GradientTransformation, functools.partial, bool]:
    """The optimizer, the jitted train step, not compiled yet, and whether it stacks layers."""
    config, plan = run.config, run.batches.plan
    schedule = schedules.learning_rate_of(config.optimizer, config.train_steps)
    optimizer = optimizers.optimizer_of(config.optimizer, schedule)
    tasks = tuple(view.task_id.key for view in run.source.selection.views)
    platform = run.partitioner.platform
    stacked = platform != "cpu" and optimizer.elementwise
    train_step = step.make_train_step(
        devices.compute_config(config.model, platform),
        optimizer,
        schedule,
        losses.task_weights(tasks, config.alpha),
        run.partitioner,
        seed=config.random_seed,
        max_segments=plan.max_segments,
        num_microbatches=config.partitioner.num_microbatches,
        on_nonfinite=config.on_nonfinite,
        fused_attention=devices.has_fused_attention(config.model, platform),
        stacked=stacked,
    )
    return optimizer, train_step, stacked


def _restore(
    run: Run, store: CheckpointManager, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state a run starts from: 1. MODEL_DIR, 2. INITIAL_CHECKPOINT_PATH, 3. random."""
    config = run.config
    if store.steps():
        shapes = step.abstract_state(config.model, optimizer, run.partitioner)
        state = store.restore_latest(shapes)
        say(f"continues from step {int(state.step)} of {config.model_dir}")
        return owned(state, run.partitioner)
    origin = config.initial_checkpoint_path if run.initial_params else "random parameters"
    say(f"starts from {origin}")
    return step.init_state(
        config.model, optimizer, run.partitioner, config.random_seed, run.initial_params
    )


def _evaluate_restored(
    run: Run, store: CheckpointManager, state: TrainState, log: MetricsLog
) -> None:
    """Scores what a restart finds without a score, or scored on other questions."""
    done = int(state.step)
    fingerprint = run.evaluator.identity(VALIDATION).fingerprint
    kept = {step: score for step in store.steps() if (score := store.score(step))}
    outdated = [step for step, score in kept.items() if score.fingerprint != fingerprint]
    if outdated:
        log.drop_scores(outdated)
        known = any(kept[step].fingerprint for step in outdated)
        say(
            "validation: the questions, gold labels, metric or decoding length changed"
            if known
            else "validation: an earlier version noted scores without their questions",
            end=f"; scoring the checkpoints of steps {', '.join(map(str, outdated))} again\n",
        )
    due = done > 0 and (done % run.config.eval_period == 0 or done == run.config.train_steps)
    missing = [done] if due and done not in kept else []
    _evaluate(run, store, log, _params_of(sorted({*outdated, *missing}), state, store))


def _params_of(
    steps: Iterable[int], state: TrainState, store: CheckpointManager
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(step, parameters) of saved checkpoints, one at a time; damaged ones are named, left out."""
    for done in steps:
        if done == int(state.step):
            yield done, state.params
            continue
        try:
            params = store.restore_params(done, state.params)
        except UserError as error:
            say(f"warning: {error}")
            continue
        yield done, params


def _evaluate(
    run: Run,
    store: CheckpointManager,
    log: MetricsLog,
    checkpoints: Iterable[tuple[int, dict[str, Any]]],
) -> None:
    """Scores saved checkpoints on validation, logs and notes the scores.

    Raises:
        UserError: the metric fails; the checkpoint is on disk by then.
    """
    scores = {}
    for done, params in checkpoints:
        try:
            result = run.evaluator.evaluate(VALIDATION, params)
        except UserError:
            store.wait()
            raise
        say(f"step {done}  validation accuracy {result.accuracy}")
        log.write(done, {VALIDATION_ACCURACY: result.accuracy.value})
        scores[done] = result.accuracy.value
    if scores:
        log.flush()
        store.note(scores, run.evaluator.identity(VALIDATION).fingerprint)


def _stop(stop: StopRequest, store: CheckpointManager, log: MetricsLog, done: int) -> NoReturn:
    store.close()
    log.close()
    say(f"stopped at step {done}, saved; the same command continues")
    raise SystemExit(stop.exit_code)


def _report(
    run: Run, store: CheckpointManager, state: TrainState, stop: StopRequest, log: MetricsLog
) -> dict[str, Any]:
    """Scores the best checkpoint on validation and test, unless results.json holds it."""
    config = run.config
    # The newest, which is in memory, where no score is finite or all better ones are damaged.
    ranked = [*store.ranked_steps(), int(state.step)]
    best = ranked[0]
    summary = results.finished(config, best, run.evaluator)
    if not summary:
        best, params = next(_params_of(ranked, state, store))
        if best != ranked[0]:
            say(
                f"warning: step {ranked[0]} is damaged; step {best}, the next best, takes its place"
            )
            summary = results.finished(config, best, run.evaluator)
    if summary:
        say(f"{config.model_dir}: already complete; keeping {layout.RESULTS}")
        return summary
    scored = []
    for number, name in enumerate((VALIDATION, TEST), start=1):
        # Numbers after the last update: several processes agree on where to stop.
        if stop.granted(config.train_steps + number):
            say("stopped before the final scores; the same command makes them")
            raise SystemExit(stop.exit_code)
        scored.append(run.evaluator.evaluate(name, params, final=True))
        if pace := scored[-1].pace:
            log.write(config.train_steps, {f"{name}/seconds_per_question": pace})
    log.flush()
    return results.write_report(config, best, scored, run.evaluator, run.truncated, params)
