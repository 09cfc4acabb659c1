"""Input per CPU-second: our prepared tokens and planned batches against SeqIO on the fly.

    python benchmarks/bench_input.py [--data_dir D --dataset cqa --vocabulary MODEL] [--rounds N]

Without arguments: the embedded dataset. Each variant is a process of one thread, pinned to one
core, and they take turns. An example is one sequence pair; a question brings two. Variants:

    seqio           SeqIO's mixture through EncDecFeatureConverter(pack=True), text to packed rows
    tokenise        our tokens of both views, text to the files of the cache
    batches         our packed batches of 64 questions from those files, as arrays
    fed             the same through the thread that runs ahead, to a consumer that takes 50 batches
                    a second; `wait` is the share of its time the consumer waited
    plan            the layout of a run, for 549,367 questions with the lengths of e-SNLI

Prints one JSON line per variant (medians with their range) and a table.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

LENGTHS = {"inputs": 256, "targets": 128}
BATCH, STEPS, FED_PER_SECOND = 64, 100, 50
VARIANTS = ("seqio", "tokenise", "batches", "fed", "plan")


def seqio(args: argparse.Namespace) -> dict:
    """Packed rows of one epoch by SeqIO; the time includes no import."""
    import seqio as library

    import sbs_jax.tasks  # noqa: F401
    from sbs_jax.integrations import seqio_tasks

    seqio_tasks.configure(vocabulary=args.vocabulary)
    began = time.process_time()
    dataset = library.get_dataset(
        mixture_or_task_name=f"{args.dataset}_step_by_step",
        task_feature_lengths=LENGTHS,
        feature_converter=library.EncDecFeatureConverter(pack=True),
        dataset_split="train",
        shuffle=True,
        num_epochs=1,
    )
    examples = tokens = positions = 0
    for row in dataset.as_numpy_iterator():
        examples += int(row["encoder_segment_ids"].max())
        tokens += int((row["encoder_segment_ids"] > 0).sum())
        positions += row["encoder_segment_ids"].size
    return _rate(examples, began) | {"fill": tokens / positions}


def tokenise(args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as cache:
        began = time.process_time()
        tables = _tables(args, cache)
        return _rate(sum(table.n for _, table in tables), began)


def batches(args: argparse.Namespace) -> dict:
    made, _ = _made(args)
    began = time.process_time()
    examples = tokens = positions = 0
    for step in range(STEPS):
        segments = made[step]["encoder_segment_ids"]
        tokens, positions = tokens + int((segments > 0).sum()), positions + segments.size
        examples += int(segments.max(axis=1).sum())
    return _rate(examples, began) | {"fill": tokens / positions}


def fed(args: argparse.Namespace) -> dict:
    from sbs_jax.input_pipeline.batches import iterate

    made, _ = _made(args)
    began, start = time.process_time(), time.monotonic()
    with iterate(made, 0, STEPS) as ahead:
        for index, _ in enumerate(ahead, start=1):
            time.sleep(max(0.0, start + index / FED_PER_SECOND - time.monotonic()))
        waited = ahead.waited
    return _rate(2 * BATCH * STEPS, began) | {"wait": waited / (time.monotonic() - start)}


def plan(args: argparse.Namespace) -> dict:
    """The plan of a run on e-SNLI's number of questions; memory beyond the imports."""
    import numpy as np

    from sbs_jax.input_pipeline.batch_plan import PlanSpec, TrainingQuestions, make_plan

    class Lengths:
        def __init__(self, inputs: np.ndarray, targets: np.ndarray) -> None:
            self.n, self.ids = len(inputs), range(len(inputs))
            self.input_lengths, self.target_lengths = inputs, targets

    n = 549_367
    rng = np.random.default_rng(0)
    inputs = rng.gamma(17, 33.6 / 17, n).round().clip(8, 80).astype(np.int32)
    rationales = rng.gamma(5.2, 13.7 / 5.2, n).round().clip(3, 60).astype(np.int32)
    tables = [(1, Lengths(inputs, np.full(n, 2, np.int32))), (2, Lengths(inputs + 1, rationales))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    made = make_plan(TrainingQuestions(tables, np.arange(n)), PlanSpec(BATCH, 30_000, 0))
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = time.process_time() - began
    return {"seconds": seconds, "megabytes": more / 1024, "fill": made.input_fill}


def _rate(examples: int, began: float) -> dict:
    return {"examples_per_cpu_second": examples / (time.process_time() - began)}


def _tables(args: argparse.Namespace, cache: str) -> list:
    from pathlib import Path

    import sbs_jax.tasks  # noqa: F401
    from sbs_jax.datasets import registry
    from sbs_jax.datasets.methods import VIEWS, Prefixes
    from sbs_jax.input_pipeline import token_cache, vocabularies

    dataset = registry.get(args.dataset)
    vocabulary = vocabularies.load(args.vocabulary)
    return [
        (
            VIEWS[view].task_id,
            token_cache.prepare(
                dataset, "train", VIEWS[view], vocabulary, LENGTHS, Prefixes(), Path(cache)
            ),
        )
        for view in ("label", "rationale")
    ]


def _made(args: argparse.Namespace):
    import numpy as np

    from sbs_jax.input_pipeline.batch_plan import PlanSpec
    from sbs_jax.input_pipeline.batches import Batches

    cache = tempfile.mkdtemp()
    tables = _tables(args, cache)
    return Batches(tables, np.arange(tables[0][1].n), PlanSpec(BATCH, 10_000, 0)), cache


def _measure(variant: str) -> dict:
    """One variant in a separate process."""
    done = subprocess.run(
        [sys.executable, __file__, *sys.argv[1:], "--one", variant],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="what `sbs data` wrote")
    parser.add_argument("--dataset", default="demo")
    parser.add_argument("--vocabulary", default="demo")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.data_dir:
        os.environ["SBS_DATA_DIR"] = args.data_dir
    if args.one:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        print(json.dumps(globals()[args.one](args)))
        return
    results: dict[str, list[dict]] = {variant: [] for variant in args.variants}
    for _ in range(args.rounds):
        for variant in args.variants:
            results[variant].append(_measure(variant))
    table = []
    for variant, rounds in results.items():
        report = {"benchmark": "input", "dataset": args.dataset, "variant": variant}
        for name in rounds[0]:
            values = sorted(each[name] for each in rounds)
            report[name] = round(statistics.median(values), 4)
            report[f"{name}_range"] = [round(values[0], 4), round(values[-1], 4)]
            table.append(
                f"{variant:<10}{name:<26}{report[name]:>12,.3f}  {values[0]:,.3f}-{values[-1]:,.3f}"
            )
        report |= {"rounds": args.rounds, "machine": f"{platform.machine()}, one core used"}
        print(json.dumps(report))
    print("\n".join(table))


if __name__ == "__main__":
    main()
