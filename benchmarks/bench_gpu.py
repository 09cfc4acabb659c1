"""Updates per second on a GPU, against PyTorch loops and older builds on the same card.

    python benchmarks/bench_gpu.py --prepare FOLDER --model base [--records train.jsonl
        --vocabulary spiece.model]
    python benchmarks/bench_gpu.py --run FOLDER --variants ours,eager,compile,graphs
        [--peer python] [--build old=/path/to/python] [--profile]

`--prepare` works on any machine: it writes the token ids of questions ("input", "label" and
"rationale" of a records file; without one, random ids with the lengths of CommonsenseQA) and the
packed batches of the updates. `--run` needs neither TensorFlow nor a network: it draws the weights,
starts a process for each variant (`gpu_ours.py`, `gpu_torch.py`), lets every one make its first
update, and then times them in turn. `--build NAME=PYTHON` adds an older build of this package,
installed in another environment, on the same batches. Without arguments: both, at the size "toy".

Prints one JSON line per variant and a table. Useful MFU counts 6 floating-point operations for
every parameter of a matrix and every real token that it meets; padding does not count.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import bench_train
import numpy as np

from sbs_jax.checkpoints.formats import hf_write
from sbs_jax.checkpoints.formats.params import shapes_of
from sbs_jax.configs import T5Config
from sbs_jax.input_pipeline import vocabularies
from sbs_jax.input_pipeline.batch_plan import PlanSpec, epoch_order
from sbs_jax.input_pipeline.batches import Batches
from sbs_jax.utils import jsonl

HERE = pathlib.Path(__file__).parent
TASKS = ("label", "rationale")
_LARGE = {"scan_layers": True, "remat_policy": "full", "param_dtype": "bfloat16"}
MODELS: dict[str, tuple[tuple[int, ...], dict]] = {
    "toy": ((8192, 32, 2, 2, 2, 16, 64), {}),
    "base": ((32128, 768, 12, 12, 12, 64, 2048), {}),
    "large": ((32128, 1024, 16, 24, 24, 64, 2816), {}),
    "xl": ((32128, 2048, 32, 24, 24, 64, 5120), _LARGE),
    "xxl": ((32128, 4096, 64, 24, 24, 64, 10240), _LARGE),
}


def model_config(name: str) -> T5Config:
    """A T5 v1.1 as the recipes for a GPU train it."""
    sizes, more = MODELS[name]
    return T5Config(*sizes, dropout_rate=0.1, dtype="bfloat16", **more)


def sequences_of(records: str | None, vocabulary: str | None) -> dict[str, list[np.ndarray]]:
    """Token ids of inputs, labels and rationales, EOS included."""
    if records is None:
        return bench_train.sequences()

    rows = [row for _, row in jsonl.objects(records)]
    words = vocabularies.load(vocabulary)
    texts = {
        "inputs": [f"predict: {row['input']}" for row in rows],
        **{task: [str(row[task]) for row in rows] for task in TASKS},
    }
    return {
        name: [
            np.asarray([*ids, words.eos_id], np.int32)
            for ids in vocabularies.encode_texts(words, each)
        ]
        for name, each in texts.items()
    }


def prepare(
    folder: pathlib.Path, model: str, batch: int, updates: int, found: dict[str, list[np.ndarray]]
) -> None:
    """Writes questions.npz, batches.npz and about.json."""
    folder.mkdir(parents=True, exist_ok=True)
    config, count = model_config(model), len(found["inputs"])
    tables = [
        (number, bench_train.Table(found["inputs"], found[task]))
        for number, task in enumerate(TASKS, start=1)
    ]
    batches = Batches(tables, np.arange(count), PlanSpec(batch, updates, 0, emb_dim=config.emb_dim))
    packed = {
        f"{index}/{name}": rows for index in range(updates) for name, rows in batches[index].items()
    }
    np.savez(folder / "batches.npz", segments=batches.plan.max_segments, **packed)
    order = np.resize(epoch_order(count, 0, 0), updates * batch).reshape(updates, batch)
    padded = {name: bench_train.padded(rows) for name, rows in found.items()}
    np.savez(folder / "questions.npz", members=order, **padded)
    tokens = {
        side: sum(int((rows > 0).sum()) for name, rows in packed.items() if f"/{side}_seg" in name)
        for side in ("encoder", "decoder")
    }
    about = {"model": model, "batch": batch, "updates": updates, "plan": str(batches.plan)}
    (folder / "about.json").write_text(json.dumps(about | {"tokens": tokens}))


def useful_flops(config: T5Config, encoder_tokens: float, decoder_tokens: float) -> float:
    """6 x parameters of matrices x the real tokens that they multiply."""
    total = 0.0
    for name, shape in shapes_of(config).items():
        if name.endswith("kernel"):
            of_encoder = name.startswith("encoder") or any(
                f"encoder_decoder_attention/{side}/" in name for side in ("key", "value")
            )
            total += 6.0 * np.prod(shape) * (encoder_tokens if of_encoder else decoder_tokens)
    return total


class Worker:
    """A variant in a separate process."""

    def __init__(self, command: list[str]) -> None:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, **command: int) -> dict:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended: {self._process.args}")
        return json.loads(line)

    def first_update(self) -> float:
        """Makes it; seconds since the process began."""
        self(updates=1)
        return time.monotonic() - self._started

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def commands(flags: argparse.Namespace, folder: pathlib.Path, config: T5Config) -> Iterator[tuple]:
    """(variant, the command of its process)."""
    ours = (str(HERE / "gpu_ours.py"), str(folder), json.dumps(vars(config)), flags.optimizer)
    builds = {"ours": sys.executable, **dict(each.split("=", 1) for each in flags.build)}
    for name in (*flags.variants.split(","), *list(builds)[1:]):
        if name in builds:
            yield name, [builds[name], *ours]
        else:
            yield name, [flags.peer or sys.executable, str(HERE / "gpu_torch.py"), folder, name]


def write_weights(folder: pathlib.Path, config: T5Config, for_torch: bool) -> None:
    """The same random weights for every variant."""
    checkpoint = bench_train.weights(config)
    arrays = {name: array.read() for name, array in checkpoint.params.items()}
    np.savez(folder / "parameters.npz", **arrays)
    if for_torch:
        hf_write.write(folder / "model", checkpoint)


def run(flags: argparse.Namespace, folder: pathlib.Path) -> list[dict]:
    """Times all variants in turn; one report each."""
    about = json.loads((folder / "about.json").read_text())
    config = model_config(about["model"])
    chosen = dict(commands(flags, folder, config))
    peers = {"eager", "compile", "graphs"}
    write_weights(folder, config, for_torch=bool(peers & set(chosen)))
    tokens = {side: count / about["updates"] for side, count in about["tokens"].items()}
    flops = useful_flops(config, tokens["encoder"], tokens["decoder"])
    workers, reports = {}, {}
    for name, command in chosen.items():
        workers[name] = Worker(command)
        first = workers[name].first_update()
        # Every shape is compiled before the rounds.
        workers[name](updates=about["updates"])
        reports[name] = {"variant": name, **about, "seconds_to_first_update": round(first, 2)}
    times: dict[str, list[dict]] = {name: [] for name in workers}
    for _ in range(flags.rounds):
        for name, worker in workers.items():
            times[name].append(worker(updates=flags.updates))
    for name, rounds in times.items():
        seconds = [each["seconds"] / flags.updates for each in rounds]
        middle = statistics.median(seconds)
        reports[name] |= {
            "ms_per_update": round(1e3 * middle, 2),
            "range": [round(1e3 * min(seconds), 2), round(1e3 * max(seconds), 2)],
            "questions_per_second": round(about["batch"] / middle, 1),
            "tokens_per_second": round(sum(tokens.values()) / middle),
            "useful_mfu": round(flops / middle / (flags.peak_tflops * 1e12), 4),
            "input_share": round(
                sum(each["input_seconds"] for each in rounds)
                / sum(each["seconds"] for each in rounds),
                4,
            ),
            "peak_gb": round(rounds[-1]["peak_bytes"] / 1e9, 2),
        }
        if flags.profile and name == "ours":
            spent = workers[name](profile=flags.updates)
            reports[name]["ms_by_kernel_kind"] = spent
        workers[name].close()
    return list(reports.values())


def first_losses(flags: argparse.Namespace, folder: pathlib.Path) -> dict[str, float]:
    """Of every variant before its first update, without dropout: they must be equal."""
    about = json.loads((folder / "about.json").read_text())
    found = {}
    for name, command in commands(flags, folder, model_config(about["model"])):
        worker = Worker(command)
        found[name] = worker(updates=0)["loss"]
        worker.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", type=pathlib.Path, help="write questions and batches here")
    parser.add_argument("--run", type=pathlib.Path, help="time the variants on a prepared folder")
    parser.add_argument("--model", choices=MODELS, default="toy")
    parser.add_argument("--batch", type=int, default=64, help="questions per update")
    parser.add_argument("--prepared_updates", type=int, default=20)
    parser.add_argument("--records", help="JSONL with input, label and rationale")
    parser.add_argument("--vocabulary", help="of the records")
    parser.add_argument("--variants", default="ours", help="of ours, eager, compile, graphs")
    parser.add_argument("--peer", help="Python with torch and transformers; default: this one")
    parser.add_argument("--build", action="append", default=[], help="NAME=PYTHON of another build")
    parser.add_argument("--optimizer", default="adamw_hf")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20, help="updates of a variant per round")
    parser.add_argument("--peak_tflops", type=float, default=989.0, help="of the card in bfloat16")
    parser.add_argument("--profile", action="store_true", help="GPU time by kind of kernel")
    parser.add_argument("--losses", action="store_true", help="only the losses before an update")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.run or flags.prepare or pathlib.Path(temporary)
        if not flags.run:
            found = sequences_of(flags.records, flags.vocabulary)
            prepare(folder, flags.model, flags.batch, flags.prepared_updates, found)
        if flags.prepare and not flags.run:
            return
        reports = run(flags, folder)
        if flags.losses:
            print(json.dumps({"loss_before_the_first_update": first_losses(flags, folder)}))
    for report in reports:
        print(json.dumps(report), flush=True)
    for report in reports:
        print(f"{report['variant']:<12}{report['ms_per_update']:>10} ms an update")


if __name__ == "__main__":
    main()
