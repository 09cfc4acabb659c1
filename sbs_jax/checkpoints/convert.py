"""Converts a checkpoint to another format, array by array; compares the result with the source."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sbs_jax.checkpoints import initial
from sbs_jax.checkpoints.formats import hf_write, native, t5x
from sbs_jax.checkpoints.formats.params import Checkpoint, read_all
from sbs_jax.configs import T5Config
from sbs_jax.errors import UserError
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.models.t5 import Transformer
from sbs_jax.utils.files import atomic_folder

# The logits need all parameters in memory; above this the parameters alone are compared.
LOGITS_BYTES = 2**31


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was done.

    Attributes:
        logits: whether the logits of a fixed input were compared besides the parameters.
    """

    source: Checkpoint
    written: Checkpoint
    logits: bool


def convert(
    source: str,
    destination: str,
    to_kind: str,
    from_kind: str | None = None,
    vocabulary: str | None = None,
) -> Conversion:
    """Writes `destination`, reads it again, and compares every number with the source.

    Peak memory is a few times the largest array, whatever the size of the model.

    Args:
        destination: a folder that does not exist; it appears complete or not at all.
        to_kind, from_kind: hf, t5x or sbs; None looks what the source is.
        vocabulary: what `vocabularies.load` takes; default: the source's own.

    Raises:
        UserError: for a source that cannot be read, another vocabulary than its run's, a
            destination that is there or cannot be written, or a copy that came out different.
    """
    with atomic_folder(destination) as partial:
        opened = initial.with_vocabulary(initial.find(source, from_kind), vocabulary)
        if vocabulary and not initial.trained_with(opened, vocabularies.load(vocabulary)):
            raise initial.another_vocabulary(opened)
        _writer(to_kind, Path(destination))(partial, opened)
        written = initial.find(str(partial), to_kind)
        logits = compare(opened, written)
    return Conversion(opened, dataclasses.replace(written, path=destination), logits)


def _writer(kind: str, target: Path) -> Callable[[Path, Checkpoint], None]:
    if kind == "sbs":
        return lambda folder, checkpoint: native.write(folder, checkpoint, target)
    return {"hf": hf_write.write, "t5x": t5x.write}[kind]


def compare(source: Checkpoint, written: Checkpoint) -> bool:
    """Compares two checkpoints bit by bit; returns whether their logits were compared too.

    Raises UserError for the first difference.
    """
    if _architecture(source) != _architecture(written):
        raise UserError(f"{written.path}: its model came out different; nothing was kept")
    for name, array in source.params.items():
        before, after = array.read(), written.params[name].read()
        if before.dtype != after.dtype or not np.array_equal(_bits(before), _bits(after)):
            raise UserError(f"{written.path}: {name} came out different; nothing was kept")
    if sum(array.nbytes for array in source.params.values()) > LOGITS_BYTES:
        return False
    if not np.array_equal(logits(source), logits(written), equal_nan=True):
        raise UserError(f"{written.path}: its logits came out different; nothing was kept")
    return True


def _architecture(checkpoint: Checkpoint) -> T5Config:
    """The sizes alone; not every format stores training settings."""
    return dataclasses.replace(
        checkpoint.config,
        dropout_rate=0.0,
        dtype="float32",
        param_dtype="float32",
        remat_policy="none",
        scan_layers=False,
    )


def _bits(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).view(np.uint32)


def logits(checkpoint: Checkpoint) -> Float[Array, "2 6 V"]:
    """Logits of a fixed input with a checkpoint's parameters, in float32."""
    config = _architecture(checkpoint)
    rng = np.random.default_rng(0)
    inputs, targets = (rng.integers(2, config.vocab_size, (2, n)) for n in (12, 6))
    batch = {
        "encoder_input_tokens": jnp.asarray(inputs, jnp.int32),
        "decoder_input_tokens": jnp.asarray(targets, jnp.int32),
        "encoder_segment_ids": jnp.ones(inputs.shape, jnp.int32),
        "decoder_segment_ids": jnp.ones(targets.shape, jnp.int32),
    }
    return _apply(config, read_all(checkpoint), batch)


@functools.partial(jax.jit, static_argnums=0)  # one program for a source and its copy
def _apply(config: T5Config, params: Any, batch: dict[str, Array]) -> Any:
    return Transformer(config).apply({"params": params}, batch)
