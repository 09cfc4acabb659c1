"""Questions decoded per CPU-second on one core, against transformers' `generate`.

    python benchmarks/bench_decode.py --peer path/to/python [--model mini|small] [--rounds N]

The questions have the lengths of CommonsenseQA (inputs 46 tokens on average) and random token ids;
both sides load the same random float32 weights of a T5 v1.1 and decode exactly T new tokens (no row
ends early: EOS cannot win), greedily. The variants take turns on one core, so that a slow phase of
the machine meets all of them, and their ids must be equal.

* ``ours``: what `sbs predict` and `sbs evaluate` run.
* ``confidence``: what `sbs predict --confidence` runs for three labels of two to four tokens, which
  gives the exact probability of each and the greedy output where it is one of them.
* ``generate``: `model.generate` on batches of 64 in the order of the file, padded to the longest.
* ``sorted generate``: the same on inputs sorted by length.

`--peer` names the Python of an environment with torch and transformers; without it only ours is
timed. Prints one JSON line per variant and number of tokens: questions per CPU-second, median and
range over the rounds, and the ratio to each peer.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false "
    "intra_op_parallelism_threads=1"
)

import jax
import numpy as np

from sbs_jax.checkpoints.formats import hf_write
from sbs_jax.checkpoints.formats.params import Checkpoint, LazyArray, read_all, shapes_of
from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.evaluation.decoder import Decoder
from sbs_jax.models import label_trie

QUESTIONS, BATCH = 256, 64
LABELS = [[11, 12, 13, 1], [14, 1], [15, 16, 1]]  # entailment, neutral, contradiction
MODELS = {
    "mini": T5Config(32128, 256, 4, 4, 4, 64, 512),
    "small": T5Config(32128, 512, 6, 8, 8, 64, 1024),
}

WORKER = """
import json, sys, time
import numpy as np, torch
from transformers import AutoModelForSeq2SeqLM

torch.set_num_threads(1)
torch.set_flush_denormal(True)
folder, file, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = AutoModelForSeq2SeqLM.from_pretrained(folder).train(False)
rows = [row[row > 0] for row in np.load(file)]
for line in sys.stdin:
    order, length = json.loads(line)
    order = range(len(rows)) if order == "file" else sorted(
        range(len(rows)), key=lambda i: -len(rows[i]))
    order, output = list(order), [None] * len(rows)
    start = time.process_time()
    with torch.inference_mode():
        for first in range(0, len(order), batch):
            members = order[first : first + batch]
            width = max(len(rows[i]) for i in members)
            ids = np.zeros((len(members), width), np.int64)
            for place, i in enumerate(members):
                ids[place, : len(rows[i])] = rows[i]
            ids = torch.tensor(ids)
            found = model.generate(input_ids=ids, attention_mask=(ids > 0).long(),
                                   do_sample=False, num_beams=1, max_new_tokens=length)
            for place, i in enumerate(members):
                output[i] = found[place, 1:].tolist()
    print(json.dumps([time.process_time() - start, output]), flush=True)
"""


class Table:
    """Random questions as a `batches.Table`."""

    def __init__(self, vocab_size: int) -> None:
        rng = np.random.default_rng(0)
        sizes = np.clip(rng.normal(45, 10, QUESTIONS), 8, 98).astype(int)
        self._rows = [np.append(rng.integers(3, vocab_size, n), 1).astype(np.int32) for n in sizes]
        self.ids = [str(i) for i in range(QUESTIONS)]
        self.input_lengths = np.array([len(row) for row in self._rows], np.int32)
        self.target_lengths = np.zeros(QUESTIONS, np.int32)

    def inputs(self, row: int) -> np.ndarray:
        """Token ids of a question."""
        return self._rows[row]

    def targets(self, row: int) -> np.ndarray:
        """No ids."""
        return np.zeros(0, np.int32)

    def padded(self) -> np.ndarray:
        """All questions in one array, 0 on padding."""
        tokens = np.zeros((QUESTIONS, self.input_lengths.max()), np.int32)
        for place, row in enumerate(self._rows):
            tokens[place, : len(row)] = row
        return tokens


def weights(config: T5Config) -> Checkpoint:
    """Random weights of plausible scale, whose EOS logit never wins."""
    rng = np.random.default_rng(1)
    params = {}
    for name, shape in shapes_of(config).items():
        scale = 1.0 if "scale" in name else 0.3 if "embed" in name else shape[0] ** -0.5
        array = np.ones(shape, np.float32) if "scale" in name else rng.normal(0, scale, shape)
        array = np.asarray(array, np.float32)
        if name == "decoder/logits_dense/kernel":
            array[:, 1] = 0.0
        params[name] = LazyArray(shape, array.dtype, lambda array=array: array)
    return Checkpoint("made", "memory", params, config)


class Ours:
    """The product's decoder."""

    def __init__(self, checkpoint: Checkpoint, table: Table) -> None:
        partitioner = Partitioner(devices=jax.devices()[:1])
        self._params = jax.device_put(read_all(checkpoint))
        self._decoder = Decoder(checkpoint.config, partitioner, None, BATCH)
        self._table = table

    def __call__(self, length: int) -> tuple[float, list[list[int]]]:
        start = time.process_time()
        ids = self._decoder.ids(self._params, self._table, np.arange(QUESTIONS), length)
        return time.process_time() - start, [row.tolist() for row in ids]

    def confidence(self) -> tuple[float, list]:
        """CPU seconds for the probabilities of three labels."""
        start = time.process_time()
        rows = np.arange(QUESTIONS)
        self._decoder.label_scores(self._params, self._table, rows, label_trie.build(LABELS))
        return time.process_time() - start, []


class Peer:
    """transformers in a separate process, on the same core."""

    def __init__(self, python: str, folder: str, file: str) -> None:
        self._process = subprocess.Popen(
            [python, "-c", WORKER, folder, file, str(BATCH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __call__(self, order: str, length: int) -> tuple[float, list[list[int]]]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([order, length]) + "\n")
        self._process.stdin.flush()
        seconds, ids = json.loads(self._process.stdout.readline())
        return seconds, ids

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def report(length: int, times: dict[str, list[float]]) -> None:
    """One JSON line per variant."""
    for name, seconds in times.items():
        ratios = {
            f"times {peer}": round(
                statistics.median(p / s for p, s in zip(times[peer], seconds, strict=True)), 2
            )
            for peer in times
            if peer != name
        }
        speeds = [QUESTIONS / s for s in seconds]
        line = {
            "variant": name,
            "new_tokens": length,
            "questions_per_cpu_second": round(statistics.median(speeds), 1),
            "range": [round(min(speeds), 1), round(max(speeds), 1)],
            **ratios,
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    """Times all variants in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mini", choices=MODELS)
    parser.add_argument("--peer", help="Python of an environment with torch and transformers")
    parser.add_argument("--tokens", default="4,7,16", help="numbers of new tokens")
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    config = MODELS[flags.model]
    checkpoint, table = weights(config), Table(config.vocab_size)
    ours = Ours(checkpoint, table)
    with tempfile.TemporaryDirectory() as place:
        peer = None
        if flags.peer:
            hf_write.write(pathlib.Path(place) / "model", checkpoint)
            np.save(pathlib.Path(place) / "rows.npy", table.padded())
            peer = Peer(flags.peer, f"{place}/model", f"{place}/rows.npy")
        for length in map(int, flags.tokens.split(",")):
            measure(ours, peer, length, flags.rounds)
        if peer:
            peer.close()


def measure(ours: Ours, peer: Peer | None, length: int, rounds: int) -> None:
    """Warms every variant up, compares their ids, and times them in turn."""
    compiling, ids = ours(length)
    variants = {"ours": lambda: ours(length)}
    if peer:
        variants["generate"] = lambda: peer("file", length)
        variants["sorted generate"] = lambda: peer("sorted", length)
    differ = {name: sum(a != b for a, b in zip(run()[1], ids, strict=True))
              for name, run in variants.items()}  # fmt: skip
    print(json.dumps({"new_tokens": length, "compile_cpu_s": round(compiling, 1),
                      "rows_that_differ": differ, "jax": jax.__version__}), flush=True)  # fmt: skip
    ours.confidence()
    variants["confidence"] = ours.confidence
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            times[name].append(run()[0])
    report(length, times)


if __name__ == "__main__":
    main()
