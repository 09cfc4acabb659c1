"""The training loop: prepare, restore, step, log, evaluate, save, report."""

import dataclasses
import importlib.metadata
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import optax

from sbs_jax import evaluate, inputs, objective, optimizers, step
from sbs_jax.batches import Batches, iterate
from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.store import Store
from sbs_jax.configs import TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.logs import MetricsLog, say
from sbs_jax.partitioning import DEFAULT_RULES, Partitioner
from sbs_jax.step import TrainState
from sbs_jax.stopping import StopRequest, stop_on_signal

_VALIDATION, _TEST = "validation", "test"
_BEST_METRIC = "accuracy"
# Rows are made for about 256 encoder tokens: more sequences than this share one only if tiny.
_MASKS_PER_PACKED_ROW = 16
_LIBRARIES = ("sbs_jax", "jax", "flax", "optax", "orbax-checkpoint", "sentencepiece")

# What may differ between the runs of one MODEL_DIR: nothing of it enters an update.
_FREE_FIELDS = (
    "model_dir",
    "initial_checkpoint_path",
    "partitioner",
    "pack",
    "eval_period",
    "eval_batch_size",
    "eval_num_examples",
    "max_decode_length",
    "output_rationale",
    "log_period",
    "keep_latest",
)


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
    partitioner = _partitioner(config)
    microbatches = config.partitioner.num_microbatches
    batches = inputs.training_batches(source, config, partitioner.batch_shards * microbatches)
    say(str(batches.plan))
    _claim(model_dir, config, source)
    if operative_config:
        (model_dir / "config.gin").write_text(operative_config, encoding="utf-8")

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
        segments=_MASKS_PER_PACKED_ROW if config.pack else 1,
        num_microbatches=microbatches,
    )
    store = Store(model_dir / "checkpoints", config.keep_latest, _BEST_METRIC)
    state = _restore(config, store, optimizer, partitioner)
    scorer = _Scorer(config, source, partitioner)
    first = int(state.step)
    log = MetricsLog(model_dir, first, config.train_steps)
    with stop_on_signal() as stop:
        updates = _updates(first, state, train_step, batches, partitioner, config, log)
        for done, state in updates:
            if done % config.eval_period == 0 or done == config.train_steps:
                accuracy = scorer(_VALIDATION, state.params).accuracy
                say(f"step {done}  validation accuracy {accuracy}")
                log.write(done, {"validation/accuracy": accuracy.value})
                store.save(done, state, {}, {_BEST_METRIC: accuracy.value})
            if stop:
                _save_and_exit(store, done, state, stop)
    log.close()
    store.wait()
    return _report(model_dir, config, store, state, scorer)


def _partitioner(config: TrainConfig) -> Partitioner:
    mesh = config.partitioner
    rules = (*mesh.logical_axis_rules, *DEFAULT_RULES)
    return Partitioner(mesh.num_partitions, mesh.fsdp, rules)


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
    began = time.monotonic()
    for index, batch in iterate(batches, first, config.train_steps):
        state, metrics = train_step(state, partitioner.put_batch(batch))
        pending.append(metrics)
        done = index + 1
        if index == first:
            jax.block_until_ready(metrics)
            say(f"first step (with compilation) after {time.monotonic() - began:.1f} s")
        if done % config.log_period == 0 or done == config.train_steps or done == first + 1:
            scalars = _summarise(jax.device_get(pending), done, batches)
            elapsed = time.monotonic() - began
            scalars["examples_per_second"] = len(pending) * config.batch_size / elapsed
            log.write(done, scalars)
            log.progress(done, scalars)
            pending, began = [], time.monotonic()
        yield done, state


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


class _Scorer:
    """Scores parameters on a split, preparing each split the first time it is asked for."""

    def __init__(
        self, config: TrainConfig, source: inputs.Source, partitioner: Partitioner
    ) -> None:
        self._config, self._source = config, source
        self._decoder = evaluate.Decoder(
            config.model, partitioner, source.vocabulary, config.eval_batch_size
        )

    @property
    def metric(self) -> str:
        """The dataset's metric; a function goes by its name."""
        metric = self._source.selection.dataset.metric
        return metric if isinstance(metric, str) else metric.__name__

    def __call__(self, name: str, params: dict, final: bool = False) -> evaluate.Result:
        config, targets = self._config, self._config.task_feature_lengths["targets"]
        rationales = final and config.output_rationale
        split = self._source.split(name, config, rationales)
        return evaluate.score(
            self._decoder,
            params,
            self._source.selection,
            split,
            max_decode_length=config.max_decode_length or targets,
            rationale_length=targets,
            majority=inputs.majority_baseline(self._source, config, split) if final else None,
        )


def _claim(model_dir: Path, config: TrainConfig, source: inputs.Source) -> None:
    """Writes MODEL_DIR/run.json, or refuses a folder with another run, naming the difference."""
    fields = dataclasses.asdict(config)
    identity = {name: fields[name] for name in sorted(fields) if name not in _FREE_FIELDS}
    identity["vocabulary"] = source.vocabulary.fingerprint
    identity["data"] = source.selection.dataset.name
    identity = json.loads(json.dumps(identity))
    path = model_dir / "run.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted(identity.keys() | before.keys()):
            if before.get(name) != identity.get(name):
                raise UserError(
                    f"{model_dir}: holds another run: {name} was {before.get(name)!r}, now "
                    f"{identity.get(name)!r}; choose another MODEL_DIR or the settings it had"
                )
        return
    model_dir.mkdir(parents=True, exist_ok=True)
    evaluate.write_whole(path, [json.dumps(identity, indent=2) + "\n"])


def _restore(
    config: TrainConfig,
    store: Store,
    optimizer: optax.GradientTransformation,
    partitioner: Partitioner,
) -> TrainState:
    """Where a run starts: 1. MODEL_DIR, else 2. INITIAL_CHECKPOINT_PATH, else 3. random."""
    if store.steps():
        shapes = step.abstract_state(config.model, optimizer, partitioner)
        state, _ = store.restore_latest(shapes)
        say(f"continues from step {int(state.step)} of {config.model_dir}")
        return state
    params = None
    if config.initial_checkpoint_path:
        params = initial.load_params(config.initial_checkpoint_path, config.model)
        say(f"starts from the parameters of {config.initial_checkpoint_path}")
    else:
        say("starts from random parameters")
    return step.init_state(config.model, optimizer, partitioner, config.random_seed, params)


def _save_and_exit(store: Store, done: int, state: TrainState, stop: StopRequest) -> None:
    if done not in store.steps():
        store.save(done, state, {}, None)
    store.wait()
    say(f"stopped at step {done}, saved; the same command continues")
    raise SystemExit(stop.exit_code)


def _report(
    model_dir: Path, config: TrainConfig, store: Store, state: TrainState, scorer: _Scorer
) -> dict:
    """Scores the best checkpoint on validation and test; writes predictions and results.json."""
    path = model_dir / "results.json"
    best = store.best_step()
    if path.exists():
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["step"] == best and summary["train_steps"] == config.train_steps:
            say(f"{model_dir}: already complete; results.json stands")
            return summary
    params = state.params if best == int(state.step) else store.restore_params(best, state.params)
    results = [scorer(name, params, final=True) for name in (_VALIDATION, _TEST)]
    for result in results:
        evaluate.write_predictions(model_dir, result, best)
        say(f"{result.task} {result.split} (step {best}): student {result.accuracy}")
        if result.teacher:
            say(f"{result.task} {result.split}: teacher {result.teacher}")
    summary = {
        "mixture": config.mixture_or_task_name,
        "metric": scorer.metric,
        "step": best,
        "train_steps": config.train_steps,
        "data_fraction": config.data_fraction,
        "random_seed": config.random_seed,
        "results": [result.to_json() for result in results],
        "model": {"parameters": sum(leaf.size for leaf in jax.tree.leaves(params))},
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    evaluate.write_whole(path, [json.dumps(summary, indent=2) + "\n"])
    return summary
