"""Questions decoded per CPU-second on one core, against transformers' `generate`.

    python benchmarks/bench_decode.py --peer path/to/python [--model mini|small] [--rounds N]
                                      [--lengths FILE.npy]

The questions have about the lengths of CommonsenseQA (inputs 46 tokens on average), or those in a
file of yours, and random token ids; both sides load the same random float32 weights of a T5 v1.1
and decode exactly T new tokens (no row ends early: EOS cannot win), greedily. The variants take
turns on one core, so that a slow phase of the machine meets all of them; rows whose ids differ are
counted.

* ``ours``: what `sbs predict` and `sbs evaluate` run, with their settings of glibc.
* ``confidence``: what `sbs predict --confidence` runs for three labels of two to four tokens, which
  gives the exact probability of each and the greedy output where it is one of them.
* ``generate``: `model.generate` on batches of 64 in the order of the file, padded to the longest.
* ``sorted generate``: the same on inputs sorted by length.
* ``... malloc``: the two with ours' settings of glibc.

`--peer` names the Python of an environment with torch and transformers; without it only ours is
timed. Prints one JSON line per variant and number of tokens: questions per CPU-second, median and
range over the rounds, and the ratio to each peer.
"""

import argparse
import json
import os
import pathlib
import statistics
import tempfile
import time

import jax
import numpy as np
from bench_train import Peer  # which also sets $XLA_FLAGS for one core

from sbs_jax.checkpoints.formats import hf_write
from sbs_jax.checkpoints.formats.params import Checkpoint, LazyArray, read_all, shapes_of
from sbs_jax.cli import runtime
from sbs_jax.configs import T5Config
from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.evaluation.decoder import Decoder
from sbs_jax.models import label_trie

BATCH = 64
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
    """Random questions of given lengths, EOS included, as a `batches.Table`."""

    def __init__(self, vocab_size: int, lengths: np.ndarray | None = None) -> None:
        rng = np.random.default_rng(0)
        if lengths is None:
            lengths = np.clip(rng.normal(45, 10, 256), 8, 98).astype(int) + 1
        sizes = lengths - 1
        self._rows = [np.append(rng.integers(3, vocab_size, n), 1).astype(np.int32) for n in sizes]
        self.ids = [str(i) for i in range(len(sizes))]
        self.input_lengths = lengths.astype(np.int32)
        self.target_lengths = np.zeros(len(sizes), np.int32)

    def inputs(self, row: int) -> np.ndarray:
        """Token ids of a question."""
        return self._rows[row]

    def targets(self, row: int) -> np.ndarray:
        """No ids."""
        return np.zeros(0, np.int32)

    def padded(self) -> np.ndarray:
        """All questions in one array, 0 on padding."""
        tokens = np.zeros((len(self.ids), self.input_lengths.max()), np.int32)
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
        ids = self._decoder.ids(self._params, self._table, np.arange(len(self._table.ids)), length)
        return time.process_time() - start, [row.tolist() for row in ids]

    def confidence(self) -> tuple[float, list]:
        """CPU seconds for the probabilities of three labels."""
        start = time.process_time()
        rows = np.arange(len(self._table.ids))
        self._decoder.label_scores(self._params, self._table, rows, label_trie.build(LABELS))
        return time.process_time() - start, []


def report(length: int, questions: int, times: dict[str, list[float]]) -> None:
    """One JSON line per variant."""
    for name, seconds in times.items():
        ratios = {
            f"times {peer}": round(
                statistics.median(p / s for p, s in zip(times[peer], seconds, strict=True)), 2
            )
            for peer in times
            if peer != name
        }
        speeds = [questions / s for s in seconds]
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
    parser.add_argument("--lengths", help="file of numpy: tokens of each input, EOS included")
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    runtime.retain_memory()
    config = MODELS[flags.model]
    lengths = np.load(flags.lengths) if flags.lengths else None
    checkpoint, table = weights(config), Table(config.vocab_size, lengths)
    ours = Ours(checkpoint, table)
    peers: dict[str, Peer] = {}
    with tempfile.TemporaryDirectory() as place:
        if flags.peer:
            hf_write.write(pathlib.Path(place) / "model", checkpoint)
            np.save(pathlib.Path(place) / "rows.npy", table.padded())
            command = [flags.peer, "-c", WORKER, f"{place}/model", f"{place}/rows.npy", str(BATCH)]
            peers = {"": Peer(command, False), " malloc": Peer(command, True)}
        for length in map(int, flags.tokens.split(",")):
            times = measure(ours, peers, length, flags.rounds)
            report(length, len(table.ids), times)
        for peer in peers.values():
            peer.close()


def measure(ours: Ours, peers: dict[str, Peer], length: int, rounds: int) -> dict[str, list[float]]:
    """Warms every variant up, compares their ids, and times them in turn: CPU seconds."""
    compiling, ids = ours(length)
    variants = {"ours": lambda: ours(length)}
    for name, peer in peers.items():
        variants[f"generate{name}"] = lambda peer=peer: peer("file", length)
        variants[f"sorted generate{name}"] = lambda peer=peer: peer("sorted", length)
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
    return times


if __name__ == "__main__":
    main()
