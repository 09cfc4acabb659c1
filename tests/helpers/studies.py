"""Folders as `sbs train` and `sbs study` leave them, with invented answers."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from sbs_jax.metrics.accuracy import Accuracy

LABELS = ("yes", "no", "maybe")


def write_lines(path: pathlib.Path, rows: Sequence[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def prediction(number: int, right: bool, teacher_right: bool = True, **changes: object) -> dict:
    gold = LABELS[number % len(LABELS)]
    other = LABELS[(number + 1) % len(LABELS)]
    return {
        "id": str(number),
        "input": f"question {number} <b>?</b>",
        "gold": gold,
        "label": gold if right else other,
        "correct": right,
        "rationale": None,
        "teacher_label": gold if teacher_right else other,
        "teacher_rationale": "because so",
        **changes,
    }


def make_run(
    folder: pathlib.Path,
    mixture: str,
    predictions: Sequence[dict],
    metric: str = "text",
    parameters: int = 12345,
) -> pathlib.Path:
    """A finished MODEL_DIR with 10 logged steps, an evaluation at 5 and 10, and predictions."""
    losses = ("label/loss", "rationale/loss") if "step_by_step" in mixture else ("label/loss",)
    logged = [
        {"step": step, "loss": 1.0 / step, **dict.fromkeys(losses, 2.0 / step)}
        for step in range(1, 11)
    ]
    logged += [{"step": step, "validation/accuracy": step / 20} for step in (5, 10)]
    write_lines(folder / "metrics.jsonl", logged)
    answered = [row for row in predictions if row["teacher_label"] is not None]
    teacher = Accuracy(sum(row["teacher_label"] == row["gold"] for row in answered), len(answered))
    result = {
        "task": f"{mixture}_label",
        "split": "test",
        **Accuracy(sum(row["correct"] for row in predictions), len(predictions)).to_json(),
        "teacher": teacher.to_json() if answered else None,
        "majority": None,
    }
    results = {
        "mixture": mixture,
        "step": 10,
        "metric": metric,
        "results": [result],
        "model": {"parameters": parameters},
        "versions": {"jax": "0.0-test"},
    }
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    write_lines(folder / f"predictions-{mixture}-test-10.jsonl", predictions)
    return folder


MIXTURES = {"standard": "finetune", "standard_2x": "finetune"}


def add_row(
    folder: pathlib.Path,
    arm: str,
    fraction: float,
    seed: int,
    predictions: Sequence[dict],
    dataset: str = "mine",
    **changes: object,
) -> dict:
    """A finished run of a study and its row; earlier rows are kept."""
    model_dir = f"runs/{arm}-{100 * fraction:g}pct-seed{seed}"
    mixture = f"{dataset}_{MIXTURES.get(arm, arm)}"
    make_run(folder / model_dir, mixture, predictions)
    results = json.loads((folder / model_dir / "results.json").read_text())["results"][0]
    row = {
        "arm": arm,
        "fraction": fraction,
        "seed": seed,
        "correct": results["correct"],
        "n": results["n"],
        "steps": 20 if arm.endswith("2x") else 10,
        "train_examples": round(400 * fraction),
        "cpu_seconds": 25.0 if arm == "step_by_step" else 10.0,
        "teacher": results["teacher"],
        "majority": Accuracy(61, 100).to_json(),
        "model_dir": model_dir,
        **changes,
    }
    with (folder / "study.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    return row


def random_study(
    folder: pathlib.Path,
    n: int = 200,
    seeds: int = 3,
    fractions: Sequence[float] = (0.5, 1.0),
    arms: Sequence[str] = ("standard", "step_by_step"),
    own_questions: bool = False,
) -> pathlib.Path:
    """A study whose students and teacher err at random; equal arguments give equal files."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    teachers = rng.random((seeds if own_questions else 1, n)) < 0.7
    for seed in range(seeds):
        teacher = teachers[seed % len(teachers)]
        for arm in arms:
            for fraction in fractions:
                chance = {"step_by_step": 0.85}.get(arm, 0.7) * (0.8 + 0.2 * fraction)
                right = rng.random(n) < chance
                start = 1000 * seed if own_questions else 0
                rationale = f"because {arm} says so" if arm == "step_by_step" else None
                predictions = [
                    prediction(start + i, bool(right[i]), bool(teacher[i]), rationale=rationale)
                    for i in range(n)
                ]
                dataset = f"mine_seed{seed}" if own_questions else "mine"
                add_row(folder, arm, fraction, seed, predictions, dataset)
    return folder
