"""Optimizer, mesh, train step and initial checkpoint of an experiment under upstream T5X."""

import functools
import os
from collections.abc import Callable, Mapping

import jax
import numpy as np
import optax
from t5x import optimizers as t5x_optimizers
from t5x import partitioning, state_utils, trainer

from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.formats import hub
from sbs_jax.configs import TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.integrations.t5x_data import TASK_IDS
from sbs_jax.integrations.t5x_model import TASK_COUNTS
from sbs_jax.training import losses, optimizers, schedules


class Optimizer(t5x_optimizers.OptaxWrapper):
    """An optimizer preset with its schedule: T5X's own learning rate is not applied again."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(optimizers.optimizer_of(config.optimizer, learning_rate(config)))

    def derive_logical_axes(
        self, optimizer: t5x_optimizers.Optimizer, param_logical_axes: Mapping
    ) -> t5x_optimizers.Optimizer:
        """Shards slots of a parameter's shape like the parameter; T5X cannot for Adafactor."""
        slots = optax.tree.map_params(
            self.optax_optimizer,
            lambda slot, param, axes: axes if slot.shape == param.shape else None,
            optimizer.state.param_states,
            optimizer.target,
            param_logical_axes,
            transform_non_params=lambda _: None,
        )
        state = t5x_optimizers.OptimizerState(step=None, param_states=slots)
        return optimizer.replace(state=state, target=param_logical_axes)


def learning_rate(config: TrainConfig) -> optimizers.Schedule:
    """The schedule of the macros; in the update it is part of `Optimizer`."""
    return schedules.learning_rate_of(config.optimizer, config.train_steps)


class Partitioner(partitioning.PjitPartitioner):
    """T5X's partitioner with `configs.PartitionerConfig`'s num_partitions, on a CPU host too.

    Upstream ignores num_partitions on CPU and splits the model over all devices.

    Args:
        model_parallel_submesh: T5X's (x, y, z, core) instead of num_partitions, where upstream
            has no mesh for the accelerator.

    Raises:
        UserError: for fsdp, which T5X calls parameter_partitioning_dims, or sizes that do not fit.
    """

    def __init__(
        self,
        config: TrainConfig,
        model_parallel_submesh: tuple[int, int, int, int] | None = None,
        parameter_partitioning_dims: int = 1,
    ) -> None:
        wanted = config.partitioner
        if wanted.fsdp != 1:
            raise UserError(
                f"PartitionerConfig.fsdp = {wanted.fsdp}: T5X splits parameters over the whole "
                "data axis; use --gin.Partitioner.parameter_partitioning_dims=2"
            )
        rules = partitioning.standard_logical_axis_rules(
            parameter_partitioning_dims=parameter_partitioning_dims
        )
        super().__init__(
            num_partitions=None if model_parallel_submesh else wanted.num_partitions,
            model_parallel_submesh=model_parallel_submesh,
            logical_axis_rules=(*wanted.logical_axis_rules, *rules),
        )

    @functools.cached_property
    def mesh(self) -> jax.sharding.Mesh:
        """Axes ``data`` and ``model``."""
        devices = jax.devices()
        if devices[0].platform != "cpu":
            return super().mesh
        if len(devices) % self._num_partitions:
            raise UserError(
                f"num_partitions={self._num_partitions} does not divide the {len(devices)} devices"
            )
        grid = np.asarray(devices).reshape(-1, self._num_partitions)
        return jax.sharding.Mesh(grid, ("data", "model"))


class Trainer(trainer.Trainer):
    """T5X's trainer, exact under micro-batches.

    Upstream adds up the gradients of micro-batches that were normalised each on its own; here all
    of them are normalised by the token counts of the whole update.
    """

    def __init__(self, *, config: TrainConfig, **options) -> None:
        super().__init__(
            learning_rate_fn=learning_rate(config),
            num_microbatches=config.partitioner.num_microbatches,
            **options,
        )

    @functools.cached_property
    def _partitioned_train_step(self) -> Callable:
        rows = self._partitioner.data_partition_spec
        return self._partitioner.partition(
            self._update,
            in_axis_resources=(self._train_state_axes, rows),
            out_axis_resources=(self._train_state_axes, None),
            donate_argnums=(0,),
        )

    def _update(self, state, batch: Mapping[str, jax.Array]) -> tuple:
        needed = {name: batch[name] for name in (TASK_IDS, "decoder_loss_weights")}
        counts = losses.task_counts(needed)
        repeated = jax.numpy.broadcast_to(counts, (len(batch[TASK_IDS]), len(counts)))
        return trainer.train_with_lr(
            state,
            {**batch, TASK_COUNTS: repeated},
            learning_rate=self._learning_rate_fn(state.step),
            dropout_rng=self._get_step_rng(state.step),
            model=self._model,
            num_microbatches=self._num_microbatches,
            weight_metrics_computer=self._weight_metrics_computer,
            data_partition_spec=self._partitioner.data_partition_spec,
        )


def absolute(path: str) -> str:
    """A path that Orbax accepts; T5X passes paths on unchanged."""
    return path if "://" in path else os.path.abspath(path)


def checkpoint_period(config: TrainConfig) -> int:
    """CHECKPOINT_PERIOD, else a checkpoint with every evaluation."""
    return config.checkpoint_period or config.eval_period


def initial_checkpoint(config: TrainConfig) -> str | None:
    """INITIAL_CHECKPOINT_PATH, if T5X can read it.

    Raises:
        UserError: for one that it cannot, with the command that converts it.
    """
    path = config.initial_checkpoint_path
    if path is None:
        return None
    kind = _kind(path)
    if kind == "t5x":
        return absolute(path)
    source_format = initial.FORMATS[kind]
    raise UserError(
        f"INITIAL_CHECKPOINT_PATH {path}: a {source_format} checkpoint, which T5X cannot read; run "
        f"`sbs convert --to=t5x {path} FOLDER/checkpoint_0` and give FOLDER/checkpoint_0"
    )


def _kind(path: str) -> str:
    if path.startswith(hub.SCHEME):
        return "hf"
    return "t5x" if "://" in path else initial.find(path).kind


def parameters_alone(
    state_dict: Mapping, target_state_dict: Mapping, *, is_resuming: bool = False
) -> Mapping:
    """Takes only the parameters of the initial checkpoint, as our engine does; T5X adds the rest.

    Optimizer slots start at zero and TRAIN_STEPS count from 0, not from the pretraining's last
    step. A run that is continued takes over everything.

    Raises:
        UserError: for parameters that the model has and the checkpoint has not, or the reverse.
    """
    if is_resuming:
        return state_dict
    present = set(state_utils.flatten_state_dict(state_dict["target"]))
    wanted = set(state_utils.flatten_state_dict(target_state_dict["target"]))
    if present != wanted:
        missing, unknown = sorted(wanted - present), sorted(present - wanted)
        raise UserError(
            f"INITIAL_CHECKPOINT_PATH: not this model; missing: {', '.join(missing) or 'nothing'}; "
            f"unknown: {', '.join(unknown) or 'nothing'}"
        )
    return {"target": state_dict["target"]}
