"""Counts of a train step lowered for CUDA, on any machine: what the GPU is asked to do.

    python benchmarks/lowered.py [--scan] [--no_init]

The step is T5 v1.1 base as `sbs train` runs it on a GPU, at the packed shape of 64 CommonsenseQA
questions. Counted in StableHLO, before XLA fuses: a function that is called twelve times counts
once in `operations` (it is traced and lowered once), twelve times in `operations_inlined`. The last
line is one JSON object.
"""

import argparse
import collections
import contextlib
import json
import re
import time
import types
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.models import parameters
from sbs_jax.training import losses, optimizers, schedules
from sbs_jax.training import train_step as step
from sbs_jax.training.train_state import abstract_state

BASE = T5Config(32128, 768, 12, 12, 12, 64, 2048, dropout_rate=0.1, dtype="bfloat16")
ROWS, INPUTS, TARGETS, SEGMENTS = 24, 320, 104, 6
_CUDNN = 91002  # a version that JAX asks the card for while it lowers

_DEFINITION = re.compile(r"func\.func \w+ @(\w+)\(")
_OPERATION = re.compile(r'(?:= |^\s+)"?(stablehlo\.[a-z_0-9]+)"?')
_CALL = re.compile(r"\bcall @(\w+)")


@contextlib.contextmanager
def a_card_with_cudnn() -> Iterator[None]:
    """Inside, JAX lowers cuDNN's attention although no card is here to ask."""
    name = "jax._src.cudnn.fused_attention_stablehlo.cuda_versions"
    with mock.patch(name, types.SimpleNamespace(cudnn_get_version=lambda: _CUDNN)):
        yield


def abstract_batch() -> dict[str, jax.ShapeDtypeStruct]:
    """The model features of one update."""
    encoder = ("input_tokens", "segment_ids", "positions")
    decoder = (*encoder, "target_tokens", "loss_weights", "task_ids")
    widths = {f"encoder_{name}": INPUTS for name in encoder}
    widths |= {f"decoder_{name}": TARGETS for name in decoder}
    return {name: jax.ShapeDtypeStruct((ROWS, width), jnp.int32) for name, width in widths.items()}


def lower(config: T5Config) -> str:
    """The StableHLO of one update, lowered for CUDA."""
    partitioner = Partitioner(devices=jax.devices()[:1])
    rate = schedules.create_learning_rate_scheduler(total_steps=1000)
    optimizer = optimizers.create_optimizer("adamw_hf", rate)
    train_step = step.make_train_step(
        config,
        optimizer,
        rate,
        losses.task_weights(losses.TASKS, 0.5),
        partitioner,
        max_segments=SEGMENTS,
        fused_attention=True,
        stacked=True,
    )
    state = abstract_state(config, optimizer, partitioner, stacked=True)
    with a_card_with_cudnn():
        traced = train_step.func.trace(*train_step.args, state, abstract_batch())
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def counts(text: str, config: T5Config) -> dict[str, int]:
    """What the JSON object holds, but for the initialiser's time."""
    functions: dict[str, list[str]] = {}
    for line in text.splitlines():
        if match := _DEFINITION.search(line):
            lines = functions.setdefault(match[1], [])
        elif functions:
            lines.append(line)
    own = {name: sum(map(_operations, lines)) for name, lines in functions.items()}
    calls = {
        name: [c for line in lines for c in _CALL.findall(line)]
        for name, lines in functions.items()
    }

    def inlined(name: str) -> int:
        return own[name] + sum(inlined(called) for called in calls[name])

    scores = {
        f"{ROWS}x{config.num_heads}x{queries}x{keys}xf32"
        for queries, keys in ((INPUTS, INPUTS), (TARGETS, TARGETS), (TARGETS, INPUTS))
    }
    kinds = collections.Counter(map(_conversion, text.splitlines()))
    signature = next(line for line in text.splitlines() if "func.func public @main" in line)
    return {
        "float32_attention_results": sum(_result(line) in scores for line in text.splitlines()),
        "conversions": kinds["bf16", "f32"] + kinds["f32", "bf16"],
        "arguments": len(re.findall(r"%arg\d+:", signature)),
        "operations": sum(own.values()),
        "operations_inlined": inlined("main"),
    }


def _operations(line: str) -> int:
    return len(_OPERATION.findall(line)) + len(_CALL.findall(line))


def _result(line: str) -> str:
    """Shape and type of what a line computes, e.g. ``24x12x320x320xf32``."""
    match = re.search(r"(?:->|:) \(?tensor<([^>]*)>[^>]*$", line) if "stablehlo." in line else None
    return match[1] if match else ""


def _conversion(line: str) -> tuple[str, str] | None:
    match = re.search(
        r"stablehlo\.convert .*tensor<(?:\d+x)*(\w+)>\) -> tensor<(?:\d+x)*(\w+)>", line
    )
    return (match[1], match[2]) if match else None


def init_compile_seconds(config: T5Config) -> float:
    """CPU seconds for keys and programs of random parameters, which are not drawn."""
    began = time.process_time()
    for program, key in dict(parameters.draws(config, np.asarray(0, np.uint32))).items():
        program.lower(key).compile()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scan", action="store_true", help="loop over the layers")
    parser.add_argument("--no_init", action="store_true", help="do not compile the initialiser")
    args = parser.parse_args()
    config = T5Config(**{**vars(BASE), "scan_layers": args.scan})
    began = time.process_time()
    text = lower(config)
    seconds = time.process_time() - began
    kinds = collections.Counter(_OPERATION.findall(text))
    for kind, count in kinds.most_common(12):
        print(f"{kind:<32}{count:>8,}")
    print(f"traced and lowered in {seconds:.1f} CPU-seconds, jax {jax.__version__}")
    found: dict[str, float] = dict(counts(text, config))
    if not args.no_init:
        found["init_compile_cpu_s"] = round(init_compile_seconds(config), 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
