"""Mesh, logical axis rules, and the shardings of parameters and activations.

The mesh has three axes on every backend, CPU included: ``data`` (batch rows), ``fsdp`` (batch rows
and one dimension of every parameter and optimizer slot) and ``model`` (heads, mlp, vocabulary).
Logical axis names are T5X's; rules (`configs`) map them to mesh axes and can be replaced from gin.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sbs_jax.configs import PartitionerConfig
from sbs_jax.configs.training import DEFAULT_RULES, MESH_AXES, AxisRules
from sbs_jax.errors import UserError

_Leaf = jax.Array | np.ndarray | jax.ShapeDtypeStruct

# Logical axes of every parameter of `model`, by the end of its name; T5X's assignment.
PARAM_AXES = {
    "token_embedder/embedding": ("vocab", "embed"),
    "relpos_bias/rel_embedding": ("heads", "relpos_buckets"),
    "logits_dense/kernel": ("embed", "vocab"),
    "query/kernel": ("embed", "joined_kv"),
    "key/kernel": ("embed", "joined_kv"),
    "value/kernel": ("embed", "joined_kv"),
    "out/kernel": ("joined_kv", "embed"),
    "wi/kernel": ("embed", "mlp"),
    "wi_0/kernel": ("embed", "mlp"),
    "wi_1/kernel": ("embed", "mlp"),
    "wo/kernel": ("mlp", "embed"),
    "scale": ("embed",),
}


def _logical_axes(path: tuple) -> tuple[str, ...]:
    keys = [key.key for key in path]
    for suffix in ("/".join(keys[-2:]), keys[-1]):
        if suffix in PARAM_AXES:
            return PARAM_AXES[suffix]
    raise KeyError(f"parameter {'/'.join(keys)} has no entry in partitioning.PARAM_AXES")


class Partitioner:
    """Lays a train state and its batches over the devices.

    Args:
        num_partitions: size of the model axis (T5X's name).
        fsdp: size of the fsdp axis; the data axis takes the remaining devices.
        rules: logical axis name to mesh axis or axes.
        devices: default all devices of all processes.

    Raises:
        UserError: if the device count is no multiple of num_partitions * fsdp.
    """

    def __init__(
        self,
        num_partitions: int = 1,
        fsdp: int = 1,
        rules: AxisRules = DEFAULT_RULES,
        devices: Sequence[jax.Device] | None = None,
    ) -> None:
        devices = jax.devices() if devices is None else devices
        if len(devices) % (num_partitions * fsdp):
            raise UserError(
                f"num_partitions={num_partitions} x fsdp={fsdp} does not divide the "
                f"{len(devices)} devices; choose sizes whose product does"
            )
        grid = np.asarray(devices).reshape(-1, fsdp, num_partitions)
        self.mesh = Mesh(grid, MESH_AXES)
        self.rules = tuple(rules)

    @classmethod
    def of(
        cls, config: PartitionerConfig, devices: Sequence[jax.Device] | None = None
    ) -> "Partitioner":
        """The partitioner a run's configuration describes."""
        return cls(config.num_partitions, config.fsdp, config.rules, devices)

    @property
    def platform(self) -> str:
        """JAX's name of the devices: cpu, gpu or tpu."""
        return self.mesh.devices.flat[0].platform

    @property
    def batch_shards(self) -> int:
        """Batch rows must be a multiple of this."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    @functools.cached_property
    def host_block(self) -> tuple[int, int]:
        """(index, count): this host's rows of a batch are block `index` of `count` equal blocks.

        Hosts across which the model axis runs have the same block. Raises UserError where the mesh
        gives a host rows that are not one block.
        """
        grid = self.mesh.devices.reshape(self.batch_shards, -1)
        process = jax.process_index()
        mine = [i for i, row in enumerate(grid) if any(d.process_index == process for d in row)]
        block, size = mine[0] // len(mine), len(mine)
        if self.batch_shards % size or mine != list(range(block * size, (block + 1) * size)):
            raise UserError(
                f"num_partitions={self.mesh.shape['model']}: a host would hold batch rows that are "
                "not one block; choose a size that divides the devices of a host, or a multiple"
            )
        return block, self.batch_shards // size

    def _sharding(self, spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(self.mesh, spec)

    @property
    def replicated(self) -> NamedSharding:
        return self._sharding(PartitionSpec())

    @property
    def batch_sharding(self) -> NamedSharding:
        """Rows over data and fsdp; for arrays of shape [rows, length]."""
        return self._sharding(PartitionSpec(("data", "fsdp")))

    def param_shardings(self, params: dict) -> dict:
        """A NamedSharding for every parameter (arrays or ShapeDtypeStructs)."""

        def shard(path: tuple, leaf: _Leaf) -> NamedSharding:
            axes: tuple[str | None, ...] = _logical_axes(path)
            # Stacked layers have one axis more, in front, which no device splits.
            axes = (None,) * (len(leaf.shape) - len(axes)) + axes
            spec = nn.logical_to_mesh_axes(axes, self.rules) or PartitionSpec()
            return self._sharding(self._divisible(spec, leaf.shape))

        return jax.tree_util.tree_map_with_path(shard, params)

    def _divisible(self, spec: PartitionSpec, shape: tuple[int, ...]) -> PartitionSpec:
        """Replicates a dimension that the mesh axis does not divide (6 heads on 4)."""

        def keep(axis: str | tuple[str, ...] | None, size: int) -> str | tuple[str, ...] | None:
            names = (axis,) if isinstance(axis, str) else axis or ()
            parts = math.prod(self.mesh.shape[name] for name in names)
            return axis if size % parts == 0 else None

        return PartitionSpec(*(keep(axis, size) for axis, size in zip(spec, shape, strict=True)))

    def optimizer_shardings(
        self, optimizer: optax.GradientTransformation, params: dict, opt_state: optax.OptState
    ) -> optax.OptState:
        """Shards slots of a parameter's shape like the parameter; replicates all others."""

        def shard(slot: _Leaf, param: _Leaf, sharding: NamedSharding) -> NamedSharding:
            return sharding if slot.shape == param.shape else self.replicated

        return optax.tree.map_params(
            optimizer,
            shard,
            opt_state,
            params,
            self.param_shardings(params),
            transform_non_params=lambda _: self.replicated,
        )

    def put_batch(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        """This host's rows (`host_block`) of a batch to the devices, one global array a feature."""
        sharding, (_, count) = self.batch_sharding, self.host_block
        if jax.process_count() == 1:  # all arrays in one call, for two fifths of the time
            return jax.device_put(batch, sharding)
        return {
            name: jax.make_array_from_process_local_data(
                sharding, rows, (count * rows.shape[0], *rows.shape[1:])
            )
            for name, rows in batch.items()
        }

    def put_rows(self, rows: np.ndarray) -> jax.Array:
        """Rows that every host holds whole, sharded like a batch."""
        return jax.make_array_from_callback(rows.shape, self.batch_sharding, rows.__getitem__)

    def fetch(self, array: jax.Array) -> np.ndarray:
        """A sharded array whole, on every host."""
        if jax.process_count() == 1:
            return np.asarray(array)
        return multihost_utils.process_allgather(array, tiled=True)

    @contextlib.contextmanager
    def activations(self) -> Iterator[None]:
        """Applies the model's logical constraints to this mesh inside the context."""
        mesh = jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh)
        with mesh, nn.logical_axis_rules(self.rules):
            yield
