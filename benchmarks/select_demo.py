"""Choosing by uncertainty against chance on the demonstration: what a second round brings.

A first student learns from 200 annotated questions. Of the other 600, two rounds of 200 are taken,
as `sbs annotate --select=uncertain --budget=200` takes them: those that it is least sure of,
and 200 at random. For each, students of several seeds learn from the 400 questions; all are scored
on 600 test questions. Prints one line per arm. Minutes on one core.
"""

import argparse
import json
import pathlib
import tempfile

from sbs_jax.cli import main as sbs
from sbs_jax.datasets import demo, registry
from sbs_jax.datasets.records import Record, write_jsonl
from sbs_jax.inference import uncertainty
from sbs_jax.teacher import selection

FIRST = BUDGET = 200


def train(
    folder: pathlib.Path, name: str, records: list[Record], seed: int, steps: int
) -> pathlib.Path:
    """MODEL_DIR of a student of these records."""
    data = folder / f"data_{name}"
    write_jsonl(data / "train.jsonl", records)
    for split in ("validation", "test"):
        write_jsonl(data / f"{split}.jsonl", demo.records(split, 0))
    if f"chosen_{name}" not in registry.names():
        registry.add_dataset(f"chosen_{name}", records=data, vocabulary="demo")
    run = folder / f"{name}_{seed}"
    settings = {
        "MODEL_DIR": str(run),
        "MIXTURE_OR_TASK_NAME": f"chosen_{name}_step_by_step",
        "RANDOM_SEED": seed,
        "TRAIN_STEPS": steps,
        "EVAL_PERIOD": steps,
        "OUTPUT_RATIONALE": False,
    }
    flags = [f"--gin.{key}={value!r}" for key, value in settings.items()]
    assert sbs(["train", "--gin_file=experiments/demo_step_by_step.gin", *flags]) == 0
    return run


def right(run: pathlib.Path) -> dict[str, bool]:
    """Test question -> whether the student is right."""
    (path,) = run.glob("predictions-*-test-*.jsonl")
    rows = map(json.loads, path.read_text().splitlines())
    return {row["id"]: bool(row["correct"]) for row in rows}


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    flags = parser.parse_args()
    records = list(demo.records("train", 0))
    first, pool = records[:FIRST], records[FIRST:]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        student = train(folder, "first", first, 0, flags.steps)
        sure = uncertainty.confidences(str(student), {"train": lambda: pool})
        chosen = selection.choose(sure, BUDGET, "first student")
        print(chosen)
        print(f"first: {sum(right(student).values())}/600")
        runs: dict[str, list[dict[str, bool]]] = {}
        for arm, keys in chosen.arms.items():
            more = [r for r in pool if ("train", r.id) in keys]
            runs[arm] = [
                right(train(folder, arm, first + more, seed, flags.steps))
                for seed in range(flags.seeds)
            ]
            print(arm, [f"{sum(one.values())}/{len(one)}" for one in runs[arm]])


if __name__ == "__main__":
    main()
