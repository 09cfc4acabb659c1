"""Chooses how the train step computes on the devices present."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sbs_jax.configs import T5Config
from sbs_jax.utils.console import say

_CPU_INFO = Path("/proc/cpuinfo")
_PROBE_LENGTH = 64  # of the attention that is compiled to see whether the card runs it


def has_amx(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (Intel AMX)."""
    return cpu_info.is_file() and "amx_bf16" in cpu_info.read_text().split()


def compute_config(config: T5Config, platform: str, cpu_info: Path = _CPU_INFO) -> T5Config:
    """The model as this platform trains it: float32 instead of bfloat16 on a CPU without AMX.

    There XLA multiplies bfloat16 matrices by widening them first: 0.6 to 0.9 of float32's speed.
    """
    if platform != "cpu" or config.dtype != "bfloat16" or has_amx(cpu_info):
        return config
    say("DTYPE = 'bfloat16': this CPU has no AMX, so that float32 is faster; computing in float32")
    return dataclasses.replace(config, dtype="float32")


def keep_pace(platform: str, results: Any) -> None:
    """Waits on a CPU until a step is done.

    A step that is dispatched ahead gains nothing there and holds a second set of temporaries
    (T5-small, 64 examples: 6 GB).
    """
    if platform == "cpu":
        jax.block_until_ready(results)


def has_fused_attention(config: T5Config, platform: str) -> bool:
    """Whether the device runs cuDNN's attention for this model's heads, backward pass included."""
    if platform != "gpu" or config.dtype != "bfloat16":
        return False
    try:
        _compile_attention(config)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        say(f"cuDNN's attention does not run here ({reason}); using XLA's")
        return False
    return True


def _compile_attention(config: T5Config) -> None:
    def total(x: Array, bias: Array) -> Array:
        mixed = jax.nn.dot_product_attention(x, x, x, bias, scale=1.0, implementation="cudnn")
        return jnp.sum(mixed, dtype=jnp.float32)

    shape = (1, _PROBE_LENGTH, config.num_heads, config.head_dim)
    x = jax.ShapeDtypeStruct(shape, config.dtype)
    bias = jax.ShapeDtypeStruct((1, config.num_heads, *2 * (_PROBE_LENGTH,)), config.dtype)
    jax.jit(jax.grad(total, argnums=(0, 1))).lower(x, bias).compile()
