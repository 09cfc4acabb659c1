"""Where the scalars of a run go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

TensorBoard's events are always written. The others are asked for by `sbs train --tracker`, keep
their own settings (WANDB_PROJECT, WANDB_MODE, MLFLOW_TRACKING_URI, ...) and are continued when the
run is: MODEL_DIR/tracker.json holds the id under which they know it.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Protocol, runtime_checkable

from sbs_jax.configs import TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.runs import layout
from sbs_jax.utils.buckets import place
from sbs_jax.utils.console import say
from sbs_jax.utils.files import write_lines
from sbs_jax.utils.paths import is_remote


@runtime_checkable
class Tracker(Protocol):
    """Receives the scalars of one run, on process 0."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Takes the scalars of a step."""
        ...

    def close(self) -> None:
        """Hands over what is not written yet."""
        ...


class TensorBoard:
    """Events in MODEL_DIR/train; those after `start_step`, which is repeated, are hidden."""

    def __init__(self, config: TrainConfig, start_step: int) -> None:
        from tensorboardX import SummaryWriter  # seconds of protobuf imports; only a run needs it

        folder = place(config.model_dir) / layout.EVENTS
        self._events = SummaryWriter(str(folder), purge_step=start_step + 1)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


class WeightsAndBiases:
    """A run of wandb; of a step that a restart repeats it keeps the first scalars."""

    def __init__(self, config: TrainConfig) -> None:
        import wandb

        known = _known_id(config, "wandb")
        self._run = wandb.init(
            id=known,
            resume="allow" if known else None,
            name=place(config.model_dir).name,
            dir=None if is_remote(config.model_dir) else config.model_dir,
            config=dataclasses.asdict(config),
        )
        _keep_id(config, "wandb", self._run.id)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow. A store that cannot be reached costs its scalars, not the training."""

    def __init__(self, config: TrainConfig) -> None:
        import mlflow

        self._mlflow = mlflow
        known = _known_id(config, "mlflow")
        try:
            run = self._mlflow.start_run(run_id=known, run_name=place(config.model_dir).name)
            if known is None:
                self._mlflow.log_params(dataclasses.asdict(config))
        except self._mlflow.MlflowException as error:
            raise UserError(f"--tracker=mlflow: {error}; check MLFLOW_TRACKING_URI") from None
        _keep_id(config, "mlflow", run.info.run_id)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        try:
            self._mlflow.log_metrics(dict(scalars), step=step)
        except self._mlflow.MlflowException as error:
            say(f"mlflow: step {step} is in metrics.jsonl alone ({error})")

    def close(self) -> None:
        self._mlflow.end_run()


_ON_REQUEST: dict[str, Callable[[TrainConfig], Tracker]] = {
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}


def require(name: str) -> None:
    """Raises UserError where the package of a tracker is not installed."""
    if name in _ON_REQUEST and find_spec(name) is None:
        raise UserError(f"--tracker={name}: {name} is missing; pip install 'sbs_jax[{name}]'")


def create(name: str, config: TrainConfig, start_step: int) -> list[Tracker]:
    """TensorBoard, and the tracker of that name. Raises UserError as `require`."""
    require(name)
    chosen = [_ON_REQUEST[name](config)] if name in _ON_REQUEST else []
    return [TensorBoard(config, start_step), *chosen]


def _known_ids(config: TrainConfig) -> dict[str, str]:
    path = place(config.model_dir) / layout.TRACKER
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _known_id(config: TrainConfig, name: str) -> str | None:
    return _known_ids(config).get(name)


def _keep_id(config: TrainConfig, name: str, run_id: str) -> None:
    ids = json.dumps({**_known_ids(config), name: run_id})
    write_lines(place(config.model_dir) / layout.TRACKER, [ids + "\n"])
