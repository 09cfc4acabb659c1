"""Tunes both arms of `sbs demo` over one grid, by accuracy on validation questions.

    python benchmarks/tune_demo.py --out out/tune_demo

Half of the labels, two seeds that the demonstration does not use, and the same learning rates and
weight decays for the standard arm and for step-by-step. The progress lines are the runner's own
and show test accuracies; the table, by which settings are chosen, is of validation alone.
"""

import argparse
import itertools
import json
import pathlib
import statistics

from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.studies import demo, runner
from sbs_jax.studies.cells import Run
from sbs_jax.studies.demo import Arm, Grid

METHODS = {"standard": "finetune", "step_by_step": "step_by_step"}
LEARNING_RATES = (1e-3, 3e-3)
WEIGHT_DECAYS = (0.3, 1.0, 3.0)
SEEDS = (10, 11)
FRACTION = 0.5


def candidates(out: pathlib.Path) -> dict[tuple[str, float, float], list[Run]]:
    """(arm, learning rate, weight decay) -> its runs."""
    found = {}
    grid = itertools.product(METHODS.items(), LEARNING_RATES, WEIGHT_DECAYS)
    for (name, method), rate, decay in grid:
        arm = Arm(f"{name}-lr{rate:g}-wd{decay:g}", method)
        bindings = (f"LEARNING_RATE = {rate}", f"WEIGHT_DECAY = {decay}")
        settings = demo.settings(method, bindings)
        found[name, rate, decay] = [demo.cell(out, arm, settings, FRACTION, s) for s in SEEDS]
    return found


def validation(run: Run) -> Accuracy:
    """What a finished run scored on its validation questions."""
    results = json.loads(pathlib.Path(run.config.model_dir, "results.json").read_text())
    entry = next(r for r in results["results"] if r["split"] == "validation")
    return Accuracy(entry["correct"], entry["n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("out/tune_demo"))
    out = parser.parse_args().out.absolute()
    for seed in SEEDS:
        demo.annotate(out, seed)
    tried = candidates(out)
    runs = [run for group in zip(*tried.values(), strict=True) for run in group]
    runner.run(demo.study_of(out, runs, Grid(seeds=SEEDS)))
    print("| arm | learning rate | weight decay | validation accuracy, mean | by seed |")
    print("|---|---|---|---|---|")
    for (name, rate, decay), group in tried.items():
        values = [validation(run).value for run in group]
        shown = " ".join(f"{value:.3f}" for value in values)
        print(f"| {name} | {rate:g} | {decay:g} | {statistics.fmean(values):.3f} | {shown} |")


if __name__ == "__main__":
    main()
