"""Reads study.jsonl, one row per run, and checks it against the study requested now."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.reporting import rows, study_files
from sbs_jax.runs import reader
from sbs_jax.studies.cells import Key, Run, fixed
from sbs_jax.studies.workers import Outcome
from sbs_jax.utils import buckets, jsonl
from sbs_jax.utils.files import write_lines


def read(folder: Path, runs: Iterable[Run]) -> dict[Key, dict[str, Any]]:
    """The rows by key, including cells that this study does not request.

    Raises:
        UserError: a line is no row, or a finished run has other settings or was trained or tested
            on other data than it would be now.
    """
    path = folder / study_files.STUDY_ROWS
    known = {run.key: run for run in runs}
    by_key = {}
    for where, row in jsonl.objects(path) if path.exists() else ():
        key = _key(row, where)
        run = known.get(key)
        if run and "error" not in row:
            row = _checked(run, row, where)
        by_key[key] = row
    return by_key


def _checked(run: Run, row: dict[str, Any], where: str) -> dict[str, Any]:
    if row.get("settings") != run.settings:
        _check_same(run, where)
        row = {**row, "settings": run.settings}
    before = row.get("data") or _training_data(buckets.place(run.config.model_dir))
    for split, now in run.data.items():
        if before.get(split, now) != now:
            raise UserError(
                f"{where}: {run.name} was run on other data: the {split} records have changed "
                "since; choose another STUDY_DIR, or restore the records"
            )
    return row


def _training_data(model_dir: Path) -> dict[str, str]:
    """The fingerprint of the training records, which rows of earlier versions lack."""
    from sbs_jax.runs import run_dir  # imports jax, which a dry run does without

    try:
        fingerprint = run_dir.fingerprints_of(model_dir).get("data_fingerprint")
    except (OSError, ValueError, KeyError):
        return {}
    return {"train": fingerprint} if fingerprint else {}


def _key(row: Mapping[str, Any], where: str) -> Key:
    arm, size, alpha, dataset, fraction, seed = rows.place(row, where)
    return arm, size, alpha, dataset, float(fraction), seed


def _check_same(run: Run, where: str) -> None:
    """Raises UserError unless the row is of this very run; names the field that differs.

    Rows of earlier versions were marked by more of the settings.
    """
    from sbs_jax.runs import run_dir  # imports jax, which a dry run does without

    try:
        before = fixed(dataclasses.asdict(run_dir.load(run.config.model_dir)))
        now = fixed(dataclasses.asdict(run.config))
        changes = (f"{n} was {before[n]!r}, now {now[n]!r}" for n in now if before[n] != now[n])
        change = next(changes, "")
    except UserError:
        change = "its folder does not tell which"
    if change:
        raise UserError(
            f"{where}: {run.name} was run with other settings: {change}; choose another folder, or "
            "the settings it had"
        )


def finished(folder: Path, run: Run, outcome: Outcome) -> dict[str, Any]:
    """The row of a finished run; see `reporting.rows.Row`."""
    scored = next(r for r in outcome.results["results"] if r["split"] == "test")
    counts = {name: scored[name] for name in ("correct", "n", "squares") if name in scored}
    identity = {name: scored[name] for name in ("fingerprint", "questions") if name in scored}
    return {
        **place(run),
        **counts,
        "steps": run.config.train_steps,
        "train_examples": outcome.train_examples,
        "cpu_seconds": _cpu_seconds(buckets.place(run.config.model_dir)),
        "teacher": scored["teacher"],
        "majority": run.majority.to_json() if run.majority else scored["majority"],
        "dataset": outcome.dataset,
        **identity,
        "data": dict(run.data),
        "model_dir": model_dir(folder, run),
        "settings": run.settings,
    }


def failed(run: Run, reason: str) -> dict[str, Any]:
    """The row of a run that did not finish; the next start tries it again."""
    return {**place(run), "error": reason, "settings": run.settings}


def model_dir(folder: Path, run: Run) -> str:
    """Relative to the study's folder."""
    return str(buckets.place(run.config.model_dir).relative_to(folder))


def place(run: Run) -> dict[str, Any]:
    """Where in the grid a run is; axes that the grid does not have are left out."""
    axes = {"size": run.size, "alpha": run.alpha, "axis_dataset": run.dataset}
    return {
        "arm": run.arm,
        "fraction": run.config.data_fraction,
        "seed": run.config.random_seed,
        **{name: place for name, place in axes.items() if place is not None},
    }


def _cpu_seconds(model_dir: Path) -> float:
    """CPU seconds of the steps alone, without compilation, evaluation and checkpoints."""
    logged = reader.read_run(model_dir).metrics
    return round(sum(line.get("cpu_seconds", 0.0) for line in logged), 2)


def write(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces study.jsonl."""
    write_lines(folder / study_files.STUDY_ROWS, (json.dumps(row) + "\n" for row in rows))
