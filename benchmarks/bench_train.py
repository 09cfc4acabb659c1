"""Questions trained per CPU-second on one core, against a plain PyTorch loop.

    python benchmarks/bench_train.py [--peer path/to/python] [--model mini|small] [--batch N]
                                     [--peer_variants torch]

The questions have the lengths of CommonsenseQA (inputs 51 tokens, labels 3, rationales 30) and
random token ids. Both sides start from the same float32 weights of a T5 v1.1 (the head scaled by
D**-0.5), see the same questions in the same order, and show the same loss before the first update.
The variants take turns on one core, so that a slow phase of the machine meets all of them.

* ``ours``: the train step of `sbs train` on batches laid out as it lays them out, packed, and glibc
  with the malloc settings of `sbs train`.
* ``shared``: the same with SHARED_ENCODER, which is another model: one encoder pass per question.
* ``unpacked``: the same with one sequence per row; ``fixed_128``: in rows of 128/128 tokens.
* ``scan``, ``scan_minimal``, ``scan_full``: SCAN_LAYERS with REMAT_POLICY none, minimal, full.
* ``torch``: what users run: transformers' T5 with SDPA, each task in its own forward pass with
  dynamic padding as in the original code, loss.backward(), gradient clipping, fused AdamW, float32.
* ``torch_malloc``: the same with ours' settings of glibc.

`--peer` names the Python of an environment with torch and transformers; without it only ours is
timed. `--peer_variants` leaves one out where memory is short (T5-small at batch 64: 12 GB each).
Prints one JSON line per variant: questions per CPU-second, median and range over the rounds,
and the median of the ratios to each other variant.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false "
    "intra_op_parallelism_threads=1"
)

import jax
import numpy as np

from sbs_jax.checkpoints.formats import hf_write
from sbs_jax.checkpoints.formats.params import Checkpoint, LazyArray, read_all, shapes_of
from sbs_jax.cli import runtime
from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.input_pipeline.batch_plan import PlanSpec, epoch_order
from sbs_jax.input_pipeline.batches import Batches
from sbs_jax.training import devices, losses, optimizers, schedules
from sbs_jax.training import train_step as step

QUESTIONS, RATE, SEED = 512, 1e-4, 0
MODELS = {
    "mini": T5Config(32128, 256, 4, 4, 4, 64, 512, dropout_rate=0.1),
    "small": T5Config(32128, 512, 6, 8, 8, 64, 1024, dropout_rate=0.1),
}
KINDS: dict[str, dict] = {
    "ours": {"pack": True},
    "shared": {"pack": True, "shared": True},
    "unpacked": {"pack": False},
    "fixed_128": {"pack": False, "row_lengths": (128, 128)},
    "bfloat16": {"pack": True, "dtype": "bfloat16"},
    "scan": {"pack": True, "scan_layers": True},
    "scan_minimal": {"pack": True, "scan_layers": True, "remat_policy": "minimal"},
    "scan_full": {"pack": True, "scan_layers": True, "remat_policy": "full"},
}
PEERS = {"torch": False, "torch_malloc": True}  # whether glibc keeps freed memory

WORKER = """
import json, resource, sys, time
import numpy as np, torch
from transformers import AutoModelForSeq2SeqLM

torch.set_num_threads(1)
torch.set_flush_denormal(True)
folder, file, batch, rate = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
assert model.lm_head.weight is not model.shared.weight, "the head must be a separate parameter"
optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
data = np.load(file)
order, parts = data["order"], {}
for name in ("inputs", "label", "rationale"):
    parts[name] = [row[row > 0] for row in data[name]]

def padded(rows, fill):
    out = np.full((len(rows), max(map(len, rows))), fill, np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return torch.tensor(out)

def loss_of(index):
    members = [order[i % len(order)] for i in range(index * batch, (index + 1) * batch)]
    ids = padded([parts["inputs"][i] for i in members], 0)
    means = [
        model(input_ids=ids, attention_mask=(ids > 0).long(),
              labels=padded([parts[task][i] for i in members], -100)).loss
        for task in ("label", "rationale")
    ]
    return 0.5 * means[0] + 0.5 * means[1]

for line in sys.stdin:
    first, last, train = json.loads(line)
    model.train(train)
    start = time.process_time()
    for index in range(first, last):
        with torch.set_grad_enabled(train):
            loss = loss_of(index)
        if train:
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps([time.process_time() - start, float(loss.detach()), peak]), flush=True)
"""


class Table:
    """Random sequences as a `batch_plan.Table`: the questions, and one kind of target."""

    def __init__(self, inputs: list[np.ndarray], targets: list[np.ndarray]) -> None:
        self.n = len(inputs)
        self.ids = [str(i) for i in range(self.n)]
        self._inputs, self._targets = inputs, targets
        self.input_lengths = np.array([*map(len, inputs)], np.int32)
        self.target_lengths = np.array([*map(len, targets)], np.int32)

    def inputs(self, row: int) -> np.ndarray:
        """Token ids of a question."""
        return self._inputs[row]

    def targets(self, row: int) -> np.ndarray:
        """Token ids of its target."""
        return self._targets[row]


def sequences() -> dict[str, list[np.ndarray]]:
    """Inputs, labels and rationales with the lengths of CommonsenseQA."""
    rng = np.random.default_rng(SEED)

    def ids(mean: float, spread: float, most: int) -> np.ndarray:
        size = int(np.clip(rng.normal(mean, spread), 1, most))
        return np.append(rng.integers(3, 8000, size), 1).astype(np.int32)

    lengths = {"inputs": (50, 11, 98), "label": (1.6, 1, 5), "rationale": (29, 8, 66)}
    return {name: [ids(*size) for _ in range(QUESTIONS)] for name, size in lengths.items()}


def padded(rows: list[np.ndarray]) -> np.ndarray:
    """int32 [rows, longest], 0 behind the end of each."""
    out = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


def weights(config: T5Config) -> Checkpoint:
    """Random weights of T5's scale, the head's divided by sqrt(D)."""
    rng = np.random.default_rng(1)
    params = {}
    for name, shape in shapes_of(config).items():
        scale = 1.0 if "token_embedder" in name else shape[0] ** -0.5
        if name.endswith("query/kernel"):
            scale /= config.head_dim**0.5
        array = np.ones(shape, np.float32) if "scale" in name else rng.normal(0, scale, shape)
        array = np.asarray(array, np.float32)
        params[name] = LazyArray(shape, array.dtype, lambda array=array: array)
    return Checkpoint("made", "memory", params, config)


class Ours:
    """The product's train step on its own batches."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        batch: int,
        pack: bool,
        row_lengths: tuple[int, int] | None = None,
        shared: bool = False,
        **changes: object,
    ) -> None:
        """Args: changes: of the model's configuration."""
        config = T5Config(**{**vars(checkpoint.config), **changes})
        config = devices.compute_config(config, "cpu")
        data = sequences()
        tables = [(1, Table(data["inputs"], data["label"]))]
        tables += [(2, Table(data["inputs"], data["rationale"]))]
        spec = PlanSpec(
            batch,
            10_000,
            SEED,
            pack,
            row_lengths=row_lengths,
            shared_encoder=shared,
            emb_dim=config.emb_dim,
        )
        self._batches = Batches(tables, np.arange(QUESTIONS), spec)
        self._partitioner = Partitioner(devices=jax.devices()[:1])
        rate = schedules.create_learning_rate_scheduler("constant", RATE)
        optimizer = optimizers.create_optimizer("adamw", rate)
        params = read_all(checkpoint)
        self._state = step.init_state(config, optimizer, self._partitioner, 0, params)

        def made(config: T5Config) -> Callable:
            return step.make_train_step(
                config,
                optimizer,
                rate,
                losses.task_weights(losses.TASKS, 0.5),
                self._partitioner,
                max_segments=self._batches.plan.max_segments,
            )

        self._step = made(config)
        self._quiet = T5Config(**{**vars(config), "dropout_rate": 0.0})

    def __str__(self) -> str:
        return str(self._batches.plan)

    def loss(self) -> float:
        """Of the first batch, before any update and without dropout."""
        batch = self._partitioner.put_batch(self._batches[0])
        weights = losses.task_weights(losses.TASKS, 0.5)
        gradients = step.make_gradients(
            self._quiet, weights, max_segments=self._batches.plan.max_segments
        )
        only_loss = jax.jit(lambda params: gradients(params, batch, jax.random.key(0)).loss)
        return float(only_loss(self._state.params))

    def compiled(self) -> dict[str, float]:
        """CPU seconds to trace and compile the step for one shape, and its temporaries."""
        batch = self._partitioner.put_batch(self._batches[0])
        start = time.process_time()
        program = self._step.func.lower(*self._step.args, self._state, batch).compile()
        seconds = time.process_time() - start
        megabytes = program.memory_analysis().temp_size_in_bytes // 2**20
        return {"compile_cpu_s": round(seconds, 1), "temporaries_mb": megabytes}

    def __call__(self, first: int, last: int) -> float:
        start = time.process_time()
        for index in range(first, last):
            batch = self._partitioner.put_batch(self._batches[index])
            self._state, metrics = self._step(self._state, batch)
            devices.keep_pace("cpu", metrics)
        jax.block_until_ready(self._state)
        return time.process_time() - start


class Peer:
    """PyTorch in a separate process, on the same core."""

    def __init__(self, command: list[str], retain_memory: bool) -> None:
        # This process has put its own settings of glibc into the environment.
        kept = {
            name: value
            for name, value in os.environ.items()
            if retain_memory or not name.startswith("MALLOC_")
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kept
        )

    def __call__(self, *request: object) -> Any:
        """The worker's answer to a request; WORKER's: CPU seconds, the last loss, peak MB."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def peer_command(python: str, checkpoint: Checkpoint, batch: int, folder: str) -> list[str]:
    """Writes the same weights and questions for a peer; the command that trains on them."""
    place = pathlib.Path(folder)
    hf_write.write(place / "model", checkpoint)
    arrays = {"order": epoch_order(QUESTIONS, SEED, 0)}
    arrays |= {name: padded(rows) for name, rows in sequences().items()}
    np.savez(place / "questions.npz", **arrays)
    data = (str(place / "model"), str(place / "questions.npz"), str(batch), str(RATE))
    return [python, "-c", WORKER, *data]


def report(
    times: dict[str, list[float]], questions: int, facts: dict, own: dict[str, dict]
) -> None:
    """One JSON line per variant, with the facts of all and its own."""
    for name, seconds in times.items():
        speeds = [questions / s for s in seconds]
        ratios = {
            f"times {other}": round(
                statistics.median(p / s for p, s in zip(times[other], seconds, strict=True)), 2
            )
            for other in times
            if other != name
        }
        line = {
            "variant": name,
            "questions_per_cpu_second": round(statistics.median(speeds), 2),
            "range": [round(min(speeds), 2), round(max(speeds), 2)],
            **ratios,
            **own.get(name, {}),
            **facts,
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    """Times all variants in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="mini")
    parser.add_argument("--batch", type=int, default=8, help="questions per update")
    parser.add_argument("--peer", help="Python of an environment with torch and transformers")
    parser.add_argument("--peer_variants", default=",".join(PEERS), help=f"of {', '.join(PEERS)}")
    parser.add_argument("--variants", default="ours,unpacked", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=4, help="updates of a variant per round")
    parser.add_argument("--compile", action="store_true", help="also time one compilation each")
    flags = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    retained = runtime.retain_memory()
    checkpoint = weights(MODELS[flags.model])
    ours = {
        name: Ours(checkpoint, flags.batch, **KINDS[name]) for name in flags.variants.split(",")
    }
    first = {name: variant.loss() for name, variant in ours.items()}
    programs = {name: v.compiled() for name, v in ours.items()} if flags.compile else {}
    runs: dict[str, Callable[[int, int], float]] = dict(ours)
    peers: dict[str, Peer] = {}
    with tempfile.TemporaryDirectory() as folder:
        if flags.peer:
            command = peer_command(flags.peer, checkpoint, flags.batch, folder)
            peers = {name: Peer(command, PEERS[name]) for name in flags.peer_variants.split(",")}
        for name, peer in peers.items():
            first[name] = peer(0, 1, False)[1]
            runs[name] = lambda first, last, peer=peer: peer(first, last, True)[0]
        warm = flags.rounds * flags.updates  # every shape of the rounds is compiled before them
        for name, run in runs.items():
            run(0, 1 if name in peers else warm)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(flags.rounds):
            for name, run in runs.items():
                times[name].append(run(number * flags.updates, (number + 1) * flags.updates))
        facts = {
            "model": flags.model,
            "batch": flags.batch,
            "amx": devices.has_amx(),
            "jax": jax.__version__,
            "memory_retained": retained,
            "peak_mb_of_all_ours": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }
        for name, peer in peers.items():
            facts[f"peak_mb_of_{name}"] = peer(0, 1, False)[2]
            peer.close()
    for name, variant in ours.items():
        print(f"{name}: {variant}")
    print(json.dumps({"loss_before_the_first_update": first}))
    report(times, flags.batch * flags.updates, facts, programs)


if __name__ == "__main__":
    main()
