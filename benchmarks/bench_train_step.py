"""Questions a train step works off per CPU-second, packed and unpacked, on one CPU thread.

    python benchmarks/bench_train_step.py [--model mini|small] [--rounds N]

The questions have the lengths of CommonsenseQA (inputs 46 tokens, labels 3, rationales 29) and
random token ids; the variants take turns, so that a slow phase of the machine meets all of them.
Prints one JSON line per variant: median and range of questions per CPU-second over the rounds.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false "
    "intra_op_parallelism_threads=1"
)

import jax
import numpy as np

from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.input_pipeline import batch_plan, packing
from sbs_jax.training import losses, optimizers
from sbs_jax.training import train_step as step

QUESTIONS = 32
STEPS = 3
MODELS = {
    "mini": T5Config(8128, 128, 4, 2, 2, 32, 512, dropout_rate=0.1),
    "small": T5Config(32128, 512, 6, 8, 8, 64, 1024, dropout_rate=0.1),
}


def questions(rng: np.random.Generator) -> list[packing.Example]:
    """Label and rationale sequence of every question, with CommonsenseQA's lengths."""

    def ids(mean: float, spread: float, most: int) -> np.ndarray:
        size = int(np.clip(rng.normal(mean, spread), 1, most))
        return np.append(rng.integers(3, 8000, size), 1).astype(np.int32)

    examples = []
    for _ in range(QUESTIONS):
        inputs = ids(45, 10, 98)
        examples += [(inputs, ids(1.6, 1, 5), 1), (inputs, ids(28, 7, 66), 2)]
    return examples


def batch_of(
    examples: list[packing.Example], packed: bool, emb_dim: int
) -> tuple[dict[str, np.ndarray], int]:
    """The model batch, and how many sequences of a row get dropout masks of their own."""
    inputs, targets, tasks = zip(*examples, strict=True)
    sizes = packing.Lengths(np.array([*map(len, inputs)]), np.array([*map(len, targets)]))
    longest = packing.RowLengths(int(sizes.inputs.max()), int(sizes.targets.max()))
    if packed:
        shape = batch_plan.shape_for([sizes], emb_dim=emb_dim)
        batch = packing.pack(examples, shape.row_lengths, shape.rows)
        return batch, shape.inputs // int(sizes.inputs.min())
    place = packing.one_per_row(len(examples))
    return packing.fill(inputs, targets, np.array(tasks), place, longest, len(examples)), 1


def prepare(config: T5Config, packed: bool) -> Callable[[], float]:
    """A function that works off STEPS batches and returns the CPU seconds they took."""
    partitioner = Partitioner(devices=jax.devices()[:1])
    rate = optimizers.create_learning_rate_scheduler(total_steps=1000)
    optimizer = optimizers.create_optimizer("adamw", rate)
    host_batch, segments = batch_of(questions(np.random.default_rng(0)), packed, config.emb_dim)
    weights = losses.coefficients(losses.TASKS, 0.5)
    train_step = step.make_train_step(
        config, optimizer, rate, weights, partitioner, segments=segments
    )
    batch = partitioner.put_batch(host_batch)
    state, metrics = train_step(step.init_state(config, optimizer, partitioner, 0), batch)
    jax.block_until_ready(metrics)
    held = [state]

    def run() -> float:
        began = time.process_time()
        for _ in range(STEPS):
            held[0], metrics = train_step(held[0], batch)
        jax.block_until_ready(metrics)
        return time.process_time() - began

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="mini")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    runs = {name: prepare(MODELS[args.model], name == "packed") for name in ("packed", "unpacked")}
    seconds = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            seconds[name].append(run())
    for name, taken in seconds.items():
        rates = sorted(QUESTIONS * STEPS / s for s in taken)
        report = {
            "benchmark": "train_step",
            "model": args.model,
            "variant": name,
            "questions_per_cpu_second": round(statistics.median(rates), 1),
            "range": [round(rates[0], 1), round(rates[-1], 1)],
            "rounds": args.rounds,
            "jax": jax.__version__,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread used",
        }
        print(json.dumps(report))


if __name__ == "__main__":
    main()
