"""What a run needs before it is started: bytes per device and FLOPs per step, from shapes alone.

Parameters, optimizer slots and gradients are exact: the shapes of the real state under the run's
own shardings, on an abstract mesh of any size. Activations and FLOPs come from the formulas below,
which docs/planning.md states and tests/training/test_plan.py compares with XLA's own analysis.
`measure` asks XLA, where the mesh fits the devices that are here.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from sbs_jax.configs import T5Config, TrainConfig
from sbs_jax.configs.training import MESH_AXES
from sbs_jax.datasets import registry
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import packing, pipeline
from sbs_jax.training import losses, optimizers
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
_FLOAT32 = 4
_WIDTHS = {"float32": 4, "bfloat16": 2}
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Shape:
    """The batch of one update: rows of encoder and decoder positions, on all devices together.

    Attributes:
        segments: see `step.make_train_step`.
        origin: where the numbers come from, for people.
    """

    rows: int
    inputs: int
    targets: int
    segments: int
    origin: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one device holds during an update, and what an update computes.

    Attributes:
        mesh: devices per axis.
        parameters: of the model, a count.
        memory: bytes per device by kind, at the turn from the forward to the backward pass.
        clipped: bytes per device of the clipped gradients, beside the unclipped, when nothing
            of the passes is left; 0 without clipping.
        flops: of one update, on all devices together; matrix products only.
    """

    mesh: dict[str, int]
    shape: Shape
    parameters: int
    memory: dict[str, int]
    clipped: int
    flops: int

    @property
    def devices(self) -> int:
        return math.prod(self.mesh.values())

    @property
    def state(self) -> int:
        """Bytes per device that are there from the first update to the last."""
        return self.memory["parameters"] + self.memory["optimizer slots"]

    @property
    def peak(self) -> int:
        """Bytes per device, in the passes or in the update, whichever needs more."""
        update = self.state + self.memory["parameters"] + self.clipped
        return max(sum(self.memory.values()), update)


class _AbstractPartitioner(Partitioner):
    """Shardings over devices that need not exist."""

    def __init__(self, config: TrainConfig, devices: int) -> None:
        mesh = config.partitioner
        if devices < 1 or devices % (mesh.num_partitions * mesh.fsdp):
            raise UserError(
                f"--plan_devices={devices}: num_partitions={mesh.num_partitions} x "
                f"fsdp={mesh.fsdp} does not divide it; choose sizes whose product does"
            )
        sizes = (devices // (mesh.num_partitions * mesh.fsdp), mesh.fsdp, mesh.num_partitions)
        self.mesh = AbstractMesh(sizes, MESH_AXES)
        self.rules = tuple(mesh.rules)


def batch_shape(config: TrainConfig, devices: int, given: Sequence[int] = ()) -> Shape:
    """The shape of the run's batches.

    Args:
        given: (rows, encoder positions, decoder positions), or empty. Then the run's data decide
            where they are at hand; else every sequence has a row of its own and full length.
    """
    shards = _AbstractPartitioner(config, devices).batch_shards
    multiple = shards * config.partitioner.num_microbatches
    if given:
        if len(given) != 3 or min(given) < 1 or given[0] % multiple:
            raise UserError(
                f"--plan_shape={','.join(map(str, given))}: give ROWS,INPUTS,TARGETS with rows a "
                f"multiple of {multiple} (batch shards x micro-batches)"
            )
        return Shape(*given, segments=1 + config.pack, origin="as given")
    try:
        plan = pipeline.training_batches(pipeline.Source.of(config), config, multiple).plan
        return Shape(*plan.largest, plan.segments, "from the run's data")
    except UserError as error:
        views = len(registry.resolve(config.mixture_or_task_name).views)
        lengths = config.task_feature_lengths
        return Shape(
            packing.round_up(config.batch_size * views, multiple),
            *(config.row_lengths or (lengths["inputs"], lengths["targets"])),
            segments=1,
            origin=f"an upper bound, one sequence per row of full length ({error})",
        )


def plan(config: TrainConfig, devices: int, shape: Shape) -> Plan:
    """What an update of this run needs on a mesh of so many devices, present or not.

    Raises UserError if the mesh does not fit the device count.
    """
    partitioner = _AbstractPartitioner(config, devices)
    state = step.abstract_state(config.model, _optimizer(config), partitioner)
    parameters = _bytes_per_device(state.params)
    gradients = _bytes_per_device(state.params, _FLOAT32)
    width, param_width = _WIDTHS[config.model.dtype], _WIDTHS[config.model.param_dtype]
    groups = config.partitioner.num_microbatches
    rows = shape.rows / partitioner.batch_shards / groups
    split = config.partitioner.num_partitions
    memory = {
        "parameters": parameters,
        "optimizer slots": _bytes_per_device(state.opt_state),
        # Micro-batches add theirs to a sum that lives beside them.
        "gradients": gradients if groups == 1 else parameters + gradients,
        "activations": activation_bytes(config.model, shape, rows, split),
    }
    if config.model.scan_layers:
        memory["stacked layers"] = _bytes_per_device(_layers(state.params), width)
    elif width != param_width and config.model.remat_policy == "none":
        # Cast in the forward pass, wanted again in the backward pass; remat casts again.
        memory[f"weights in {config.model.dtype}"] = _bytes_per_device(state.params, width)
    if config.partitioner.fsdp > 1:
        memory["a gathered layer"] = _gathered_layer(config.model, split)
    return Plan(
        mesh=dict(partitioner.mesh.shape),
        shape=shape,
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        memory=memory,
        clipped=gradients if config.optimizer.clip_norm else 0,
        flops=flops(config.model, shape),
    )


def _optimizer(config: TrainConfig):
    schedule = optimizers.learning_rate_of(config.optimizer, config.train_steps)
    return optimizers.optimizer_of(config.optimizer, schedule)


def _bytes_per_device(tree, width: int | None = None) -> int:
    """Of a tree of shapes, in their own dtypes or at `width` bytes a number."""
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


def activation_bytes(model: T5Config, shape: Shape, rows: float, split: int) -> int:
    """What the forward pass keeps for the backward pass, and the largest of what comes and goes.

    Kept per layer and row: what the matrix products and the softmax need again (docs/planning.md
    has the table). XLA recomputes elementwise chains inside its fusions, so they do not count.

    Args:
        rows: rows of a micro-batch on one device.
        split: devices over which heads, mlp and vocabulary are split.
    """
    length, targets = shape.inputs, shape.targets
    encoder, decoder = (rows * size for size in _layer_bytes(model, length, targets, split))
    width = _WIDTHS[model.dtype]
    heads, vocabulary = model.num_heads / split, model.vocab_size / split
    # The logits and their gradient, the biases all layers share, the streams around the stacks.
    around = rows * 2 * targets * vocabulary * _FLOAT32
    around += rows * heads * (length**2 + targets**2) * _FLOAT32
    around += rows * 2 * (length + targets) * model.emb_dim * width
    layers = (model.num_encoder_layers, model.num_decoder_layers)
    if model.remat_policy == "none":
        return round(around + layers[0] * encoder + layers[1] * decoder)
    kept = [rows * size for size in _remat_bytes(model, length, targets, split)]
    # One layer at a time is there as a whole, with the gradients of what it keeps.
    return round(around + layers[0] * kept[0] + layers[1] * kept[1] + 2 * max(encoder, decoder))


def _remat_bytes(model: T5Config, length: int, targets: int, split: int) -> tuple[float, float]:
    """Bytes kept per row by an encoder and by a decoder layer under a remat policy."""
    width = _WIDTHS[model.dtype]
    encoder, decoder = float(length * model.emb_dim * width), float(targets * model.emb_dim * width)
    if model.remat_policy == "full":
        return encoder, decoder
    # "minimal": what the products with parameters gave, except what only the next layer reads.
    joined = model.num_heads * model.head_dim / split
    mlp = model.mlp_dim / split * len(model.mlp_activations)
    encoder += length * (model.emb_dim + 3 * joined + mlp) * width
    decoder += targets * (2 * model.emb_dim + 4 * joined + mlp) * width
    decoder += length * 2 * joined * width
    return encoder, decoder


def _layer_bytes(model: T5Config, length: int, targets: int, split: int) -> tuple[float, float]:
    """Bytes kept per row by an encoder and by a decoder layer."""
    width = _WIDTHS[model.dtype]
    joined = model.num_heads * model.head_dim / split
    mlp = model.mlp_dim / split * (len(model.mlp_activations) + 1)
    # Probabilities in float32; scores and dropped-out probabilities in the computation's type.
    per_score = model.num_heads / split * (_FLOAT32 + 2 * width)
    encoder = length * (4 * model.emb_dim + 4 * joined + mlp) * width
    encoder += length**2 * per_score
    decoder = targets * (6 * model.emb_dim + 6 * joined + mlp) * width
    decoder += targets * (targets + length) * per_score
    decoder += length * 2 * joined * width  # the encoder's keys and values
    return encoder, decoder


def _gathered_layer(model: T5Config, split: int) -> int:
    """Under fsdp a layer's weights are whole while it works; the next one is fetched meanwhile."""
    joined = model.num_heads * model.head_dim
    attention = 4 * model.emb_dim * joined
    mlp = (len(model.mlp_activations) + 1) * model.emb_dim * model.mlp_dim
    table = model.vocab_size * model.emb_dim
    width = _WIDTHS[model.dtype]
    return round(max(2 * (2 * attention + mlp), table) / split * width)


def flops(model: T5Config, shape: Shape) -> int:
    """Floating-point operations of an update's matrix products: 2 per multiply-add.

    The backward pass costs two forward passes; remat "full" computes the layers once more, and
    "minimal" their attention.
    """
    joined = model.num_heads * model.head_dim
    mlp = (len(model.mlp_activations) + 1) * model.emb_dim * model.mlp_dim
    square = model.emb_dim * joined
    length, targets = shape.inputs, shape.targets
    encoder = length * (4 * square + mlp + 2 * length * joined)
    decoder = targets * (6 * square + mlp + 2 * (targets + length) * joined)
    decoder += length * 2 * square
    layers = model.num_encoder_layers * encoder + model.num_decoder_layers * decoder
    head = targets * model.emb_dim * model.vocab_size
    attention = model.num_encoder_layers * 2 * length * length * joined
    attention += model.num_decoder_layers * 2 * targets * (targets + length) * joined
    again = {"none": 0, "minimal": attention, "full": layers}[model.remat_policy]
    return 2 * shape.rows * (3 * layers + again + 3 * head)


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
    """Compiles the step for the devices that are here, and asks XLA. Nothing is allocated.

    Raises UserError if there are fewer.
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
    train_step = step.make_train_step(
        config.model,
        optimizer,
        optimizers.learning_rate_of(config.optimizer, config.train_steps),
        losses.coefficients(losses.TASKS, config.alpha),
        partitioner,
        segments=shape.segments,
        num_microbatches=mesh.num_microbatches,
    )
    state = step.abstract_state(config.model, optimizer, partitioner)
    compiled = train_step.func.lower(
        *train_step.args, state, _abstract_batch(shape, partitioner)
    ).compile()
    memory = compiled.memory_analysis()
    return Measured(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        compiled.cost_analysis()["flops"],
    )


def _abstract_batch(shape: Shape, partitioner: Partitioner) -> dict[str, jax.ShapeDtypeStruct]:
    widths = dict.fromkeys(_ENCODER, shape.inputs) | dict.fromkeys(_DECODER, shape.targets)
    return {
        name: jax.ShapeDtypeStruct(
            (shape.rows, width), jnp.int32, sharding=partitioner.batch_sharding
        )
        for name, width in widths.items()
    }


def describe(found: Plan, measured: Measured | None = None) -> str:
    """The plan as lines for people."""
    mesh = " x ".join(f"{size} {axis}" for axis, size in found.mesh.items())
    shape = found.shape
    lines = [
        f"mesh: {found.devices} devices = {mesh}",
        f"batch: {shape.rows} rows of {shape.inputs} encoder and {shape.targets} decoder tokens, "
        f"{shape.origin}",
        f"parameters: {found.parameters:,}",
        "",
        "GiB per device",
        *(f"  {name:<20}{size / _GIB:9.2f}" for name, size in found.memory.items()),
        f"  {'together':<20}{sum(found.memory.values()) / _GIB:9.2f}",
        f"  {'clipped gradients':<20}{found.clipped / _GIB:9.2f}   (once the activations are gone)",
        f"  {'peak':<20}{found.peak / _GIB:9.2f}   ({found.peak / 1e9:.1f} GB)",
        "",
        f"FLOPs per step: {found.flops:.3g}, {found.flops / found.devices:.3g} per device",
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
