"""Plans a run before it starts: bytes per device and FLOPs per update, from shapes alone.

Parameters, optimizer slots and gradients are exact: the shapes of the real state under the run's
shardings, on an abstract mesh of any size. Activations and FLOPs come from `models.costs`.
`measure` compiles the step for the devices of this machine and returns XLA's analysis.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh

from sbs_jax.configs import TrainConfig
from sbs_jax.configs.training import MESH_AXES
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import pipeline
from sbs_jax.models import costs
from sbs_jax.models.costs import Shape
from sbs_jax.training import losses, optimizers, schedules
from sbs_jax.training import train_step as step

_ENCODER = ("encoder_input_tokens", "encoder_segment_ids", "encoder_positions")
_DECODER = (
    "decoder_input_tokens",
    "decoder_target_tokens",
    "decoder_loss_weights",
    "decoder_segment_ids",
    "decoder_positions",
    "decoder_task_ids",
)
_GIB = 2**30

# Memory per device in GiB; a v5p slice is named by cores, two per chip, and a device is a chip.
ACCELERATORS = {"v5e": 16, "v6e": 32, "h100": 80, "v5p": 95, "h200": 141}
_SAFE = 0.8  # the formulas name what is large, not everything


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one device holds during an update, and what an update computes.

    Attributes:
        mesh: devices per axis.
        shape: of the batch.
        parameters: number of parameters of the model.
        memory: bytes per device by kind, at the turn from the forward to the backward pass.
        flops: of one update, on all devices together; matrix products only.
    """

    mesh: dict[str, int]
    shape: Shape
    parameters: int
    memory: dict[str, int]
    flops: int

    @property
    def devices(self) -> int:
        """Number of devices of the mesh."""
        return math.prod(self.mesh.values())

    @property
    def state(self) -> int:
        """Bytes per device held between updates."""
        return self.memory["parameters"] + self.memory["optimizer slots"]

    @property
    def peak(self) -> int:
        """Bytes per device at the turn from the forward to the backward pass.

        The update needs less: clipping is a factor, not a second copy of the gradients.
        """
        return sum(self.memory.values())


class _AbstractPartitioner(Partitioner):
    """Shardings over devices that need not exist.

    Raises:
        UserError: the mesh does not fit the number of devices.
    """

    def __init__(self, config: TrainConfig, devices: int) -> None:
        mesh = config.partitioner
        if devices < 1 or devices % (mesh.num_partitions * mesh.fsdp):
            raise UserError(
                f"--plan_devices={devices}: num_partitions={mesh.num_partitions} x "
                f"fsdp={mesh.fsdp} does not divide it; choose sizes whose product does"
            )
        sizes = (devices // (mesh.num_partitions * mesh.fsdp), mesh.fsdp, mesh.num_partitions)
        # Shardings read the shape and axis names of a mesh only.
        self.mesh = cast(Mesh, AbstractMesh(sizes, MESH_AXES))
        self.rules = tuple(mesh.rules)


def batch_shape(config: TrainConfig, devices: int, sizes: Sequence[int] = ()) -> Shape:
    """The shape of the run's batches.

    Args:
        config: of the run.
        devices: to plan for, present or not.
        sizes: (rows, encoder positions, decoder positions), or empty for those of the run's data.

    Raises:
        UserError: `sizes` is not a shape of this mesh, or the data cannot be read.
    """
    shards = _AbstractPartitioner(config, devices).batch_shards
    multiple = shards * config.partitioner.num_microbatches
    if sizes:
        if len(sizes) != 3 or min(sizes) < 1 or sizes[0] % multiple:
            raise UserError(
                f"--plan_shape={','.join(map(str, sizes))}: give ROWS,INPUTS,TARGETS with rows a "
                f"multiple of {multiple} (batch shards x micro-batches)"
            )
        rows, inputs, targets = sizes
        return Shape(rows, inputs, targets, max_segments=1 + config.pack, origin="as given")
    try:
        plan = pipeline.training_batches(pipeline.Source.of(config), config, multiple).plan
    except UserError as error:
        raise UserError(
            f"{error}; or give --plan_shape=ROWS,INPUTS,TARGETS to plan without the data"
        ) from None
    return Shape(*plan.largest, plan.max_segments, "from the run's data")


def plan(config: TrainConfig, devices: int, shape: Shape) -> Plan:
    """What an update of this run needs on a mesh of `devices` devices, present or not.

    Raises:
        UserError: the mesh does not fit the number of devices.
    """
    partitioner = _AbstractPartitioner(config, devices)
    state = step.abstract_state(config.model, _optimizer(config), partitioner)
    parameters = _bytes_per_device(state.params)
    gradients = _bytes_per_device(state.params, costs.FLOAT32)
    width, param_width = costs.WIDTHS[config.model.dtype], costs.WIDTHS[config.model.param_dtype]
    groups = config.partitioner.num_microbatches
    rows = shape.rows / partitioner.batch_shards / groups
    split = config.partitioner.num_partitions
    memory = {
        "parameters": parameters,
        "optimizer slots": _bytes_per_device(state.opt_state),
        # The gradients of a micro-batch are held besides the sum they are added to.
        "gradients": gradients if groups == 1 else parameters + gradients,
        "activations": costs.activation_bytes(config.model, shape, rows, split),
    }
    if config.model.scan_layers:
        memory["stacked layers"] = _bytes_per_device(_layers(state.params), width)
    elif width != param_width:
        # Cast once per update and kept for the backward pass.
        memory[f"weights in {config.model.dtype}"] = _bytes_per_device(state.params, width)
    if config.partitioner.fsdp > 1:
        memory["a gathered layer"] = costs.gathered_layer_bytes(config.model, split)
    return Plan(
        mesh=dict(partitioner.mesh.shape),
        shape=shape,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        memory=memory,
        flops=costs.flops(config.model, shape),
    )


def _optimizer(config: TrainConfig) -> optax.GradientTransformation:
    schedule = schedules.learning_rate_of(config.optimizer, config.train_steps)
    return optimizers.optimizer_of(config.optimizer, schedule)


def _bytes_per_device(tree: Any, width: int | None = None) -> int:
    """Bytes of a tree of sharded shapes, in their dtypes or at `width` bytes per number."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * (width or leaf.dtype.itemsize)
        for leaf in jax.tree.leaves(tree)
    )


def _layers(params: dict) -> dict:
    """The parameters inside the layers of both stacks."""
    return {
        (stack, name): params[stack][name]
        for stack in ("encoder", "decoder")
        for name in params[stack]
        if name.startswith("layers_")
    }


@dataclasses.dataclass(frozen=True)
class Measured:
    """XLA's analysis of the compiled step.

    Attributes:
        arguments: bytes per device of state and batch.
        temporaries: bytes per device of gradients and activations.
        flops: of one device.
    """

    arguments: int
    temporaries: int
    flops: float


def measure(config: TrainConfig, devices: int, shape: Shape) -> Measured:
    """Compiles the step for devices of this machine and returns XLA's analysis.

    Allocates nothing.

    Raises:
        UserError: the machine has fewer devices.
    """
    here = jax.devices()
    if devices > len(here):
        raise UserError(
            f"--plan_compile: {devices} devices are planned, {len(here)} are here; leave it out, "
            f"or set XLA_FLAGS=--xla_force_host_platform_device_count={devices} on a CPU"
        )
    mesh = config.partitioner
    partitioner = Partitioner.of(mesh, here[:devices])
    optimizer = _optimizer(config)
    train_step: functools.partial = step.make_train_step(
        config.model,
        optimizer,
        schedules.learning_rate_of(config.optimizer, config.train_steps),
        losses.task_weights(losses.TASKS, config.alpha),
        partitioner,
        max_segments=shape.max_segments,
        num_microbatches=mesh.num_microbatches,
    )
    state = step.abstract_state(config.model, optimizer, partitioner)
    jitted: Any = train_step.func
    batch = _abstract_batch(shape, partitioner, config.shared_encoder)
    compiled = jitted.lower(*train_step.args, state, batch).compile()
    memory = compiled.memory_analysis()
    return Measured(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        compiled.cost_analysis()["flops"],
    )


def _abstract_batch(
    shape: Shape, partitioner: Partitioner, shared_encoder: bool
) -> dict[str, jax.ShapeDtypeStruct]:
    widths = dict.fromkeys(_ENCODER, shape.inputs) | dict.fromkeys(_DECODER, shape.targets)
    widths |= {"decoder_source_ids": shape.targets} if shared_encoder else {}
    return {
        name: jax.ShapeDtypeStruct(
            (shape.rows, width), jnp.int32, sharding=partitioner.batch_sharding
        )
        for name, width in widths.items()
    }


def describe(plan: Plan, measured: Measured | None = None, accelerator: str | None = None) -> str:
    """The plan as lines for people.

    Args:
        plan: of a run.
        measured: XLA's analysis of the same step.
        accelerator: a key of `ACCELERATORS`; None compares with all of them.
    """
    mesh = " x ".join(f"{size} {axis}" for axis, size in plan.mesh.items())
    shape = plan.shape
    lines = [
        f"mesh: {plan.devices} devices = {mesh}",
        f"batch: {shape.rows} rows of {shape.inputs} encoder and {shape.targets} decoder tokens, "
        f"{shape.origin}",
        f"parameters: {plan.parameters:,}",
        "",
        "GiB per device",
        *(f"  {name:<20}{size / _GIB:9.2f}" for name, size in plan.memory.items()),
        f"  {'peak':<20}{plan.peak / _GIB:9.2f}   ({plan.peak / 1e9:.1f} GB)",
        "",
        *(_verdict(plan, name) for name in ([accelerator] if accelerator else ACCELERATORS)),
        "",
        f"FLOPs per step: {plan.flops:.3g}, {plan.flops / plan.devices:.3g} per device",
    ]
    if measured:
        lines += [
            "",
            f"XLA, compiled for {jax.default_backend()}: state and batch "
            f"{measured.arguments / _GIB:.2f} GiB per device, temporaries (gradients and "
            f"activations) {measured.temporaries / _GIB:.2f}, FLOPs per device "
            f"{measured.flops:.3g}",
        ]
    return "\n".join(lines)


def _verdict(plan: Plan, accelerator: str) -> str:
    """Whether the peak fits a device, with a fifth of its memory to spare."""
    used = plan.peak / (ACCELERATORS[accelerator] * _GIB)
    words = "fits" if used <= _SAFE else "tight" if used <= 1 else "does not fit"
    return f"{accelerator}, {ACCELERATORS[accelerator]} GiB: {words} ({used:.0%})"
