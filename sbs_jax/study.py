"""Grids of runs: arms x data fractions x seeds, one row of study.jsonl per finished run.

What is finished is never done again: a run that has a row is skipped, and one that was interrupted
continues from its last checkpoint. `report` makes tables and figures of the folder.
"""

import dataclasses
import hashlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sbs_jax import run_files
from sbs_jax.configs import TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.logs import duration, say
from sbs_jax.metrics import Accuracy
from sbs_jax.run_files import StudyTexts
from sbs_jax.summaries import arm_name, labels_name
from sbs_jax.workers import ONE_CPU_THREAD, Outcome, Workers

_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


@dataclasses.dataclass(frozen=True)
class Run:
    """A cell of the grid.

    Attributes:
        arm: what is compared; `summaries.ARM_NAMES` holds the usual ones.
        config: of the training; its data_fraction and random_seed say where in the grid it is.
        majority: what an untrained guesser scores on the test questions, instead of the
            commonest training label.
        config_gin: gin text that gives the config again, for the run's MODEL_DIR.
    """

    arm: str
    config: TrainConfig
    majority: Accuracy | None = None
    config_gin: str = ""

    @property
    def key(self) -> tuple[str, float, int]:
        """(arm, fraction, seed)"""
        return self.arm, self.config.data_fraction, self.config.random_seed

    @property
    def settings(self) -> str:
        """Changes with anything the run is told, except where it is written."""
        fields = dataclasses.asdict(self.config)
        del fields["model_dir"]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Study:
    """A folder and the runs it is to hold.

    Attributes:
        runs: in the order in which they are begun; their MODEL_DIRs lie in the folder.
        texts: what the study says of itself, for study.json.
        prepare: called once in every worker, e.g. to register datasets; can be pickled.
        workers: processes that train side by side.
        environment: variables set before a worker imports jax.
    """

    folder: Path
    runs: Sequence[Run]
    texts: StudyTexts
    prepare: Callable[[], object]
    workers: int
    environment: Mapping[str, str]


def environment(folder: Path, one_cpu_thread: bool) -> dict[str, str]:
    """Variables for workers: compiled programs are shared in the folder, or where the user says."""
    cache = os.environ.get(_CACHE_VARIABLE, str(folder / "cache"))
    shared = {_CACHE_VARIABLE: cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2"}
    return shared | (ONE_CPU_THREAD if one_cpu_thread else {})


def cell_dir(folder: Path, arm: str, fraction: float, seed: int) -> str:
    """The MODEL_DIR of a cell: FOLDER/runs/ARM-PERCENTpct-seedSEED."""
    return str(folder / "runs" / f"{arm}-{100 * fraction:g}pct-seed{seed}")


def run(study: Study) -> None:
    """Trains what has no row yet, adding each row as its run finishes; tells how far it is.

    Raises:
        UserError: the folder holds another study, or a run was refused.
        KeyboardInterrupt: what is finished is kept, and the same call continues.
    """
    rows = _finished(study)
    todo = [run for run in study.runs if run.key not in rows]
    study.folder.mkdir(parents=True, exist_ok=True)
    texts = json.dumps(dataclasses.asdict(study.texts), indent=2)
    _write_whole(study.folder / run_files.STUDY_TEXTS, [texts])
    if rows:
        say(f"{study.folder}: {len(rows)} of {len(study.runs)} runs are finished already")
    if not todo:
        return
    count = min(study.workers, len(todo))
    logs = study.folder / "logs"
    say(f"{len(todo)} runs on {count} worker{'s' if count > 1 else ''}; their logs: {logs}")
    say("The first takes longest: frameworks are loaded and programs compiled.")
    progress = _Progress(todo, len(study.runs), count)
    pairs = [(run.config, run.config_gin) for run in todo]
    try:
        with Workers(count, study.prepare, study.environment, logs) as workers:
            for index, outcome in workers.train(pairs, progress.started):
                run_ = todo[index]
                rows[run_.key] = _row(study.folder, run_, outcome)
                _write_rows(study.folder, rows.values())
                progress.finished(index, outcome, rows[run_.key])
    except KeyboardInterrupt:
        say(f"{len(rows)} of {len(study.runs)} runs are finished; the same command continues")
        raise


def _finished(study: Study) -> dict[tuple[str, float, int], dict[str, Any]]:
    """The rows of study.jsonl by key."""
    path = study.folder / run_files.STUDY_ROWS
    rows = {}
    known = {run.key: run for run in study.runs}
    for where, row in run_files.read_lines(path) if path.exists() else ():
        key = (row.get("arm"), row.get("fraction"), row.get("seed"))
        if key not in known or row.get("settings") != known[key].settings:
            raise UserError(
                f"{where}: a row of another study, or of the same one with other settings; "
                "choose another folder, or delete this one"
            )
        rows[key] = row
    return rows


def _row(folder: Path, run: Run, outcome: Outcome) -> dict[str, Any]:
    """The object of study.jsonl; see `summaries.Row`."""
    scored = next(r for r in outcome.results["results"] if r["split"] == "test")
    arm, fraction, seed = run.key
    return {
        "arm": arm,
        "fraction": fraction,
        "seed": seed,
        "correct": scored["correct"],
        "n": scored["n"],
        "steps": run.config.train_steps,
        "train_examples": outcome.train_examples,
        "cpu_seconds": _cpu_seconds(Path(run.config.model_dir)),
        "teacher": scored["teacher"],
        "majority": run.majority.to_json() if run.majority else scored["majority"],
        "model_dir": str(Path(run.config.model_dir).relative_to(folder)),
        "settings": run.settings,
    }


def _cpu_seconds(model_dir: Path) -> float:
    """Of the updates alone: compilation, evaluation and checkpoints are left out."""
    logged = run_files.read_run(model_dir).metrics
    return round(sum(line.get("cpu_seconds", 0.0) for line in logged), 2)


def _write_rows(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    _write_whole(folder / run_files.STUDY_ROWS, [json.dumps(row) for row in rows])


def _write_whole(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    partial.replace(path)


class _Progress:
    """A line for every finished run, with the time that the rest will take."""

    def __init__(self, todo: Sequence[Run], total: int, workers: int) -> None:
        self._todo, self._total, self._workers = todo, total, workers
        self._began: dict[int, float] = {}
        self._seconds: dict[int, float] = {}

    def started(self, index: int) -> None:
        self._began[index] = time.monotonic()

    def finished(self, index: int, outcome: Outcome, row: Mapping[str, Any]) -> None:
        self._seconds[index] = time.monotonic() - self._began[index]
        run = self._todo[index]
        done = self._total - len(self._todo) + len(self._seconds)
        labels = labels_name(run.config.data_fraction, outcome.train_examples)
        say(
            f"[{done:>{len(str(self._total))}}/{self._total}] "
            f"{arm_name(run.arm)}, {labels} labels, seed {run.config.random_seed}: "
            f"{row['correct'] / row['n']:.3f} ({row['correct']}/{row['n']})  "
            f"{outcome.seconds:.0f} s  ETA {duration(self._left())}"
        )

    def _left(self) -> float:
        """Seconds until all is done, by the mean of finished runs of the same arm."""
        now = time.monotonic()
        left = 0.0
        for index in range(len(self._todo)):
            if index not in self._seconds:
                passed = now - self._began.get(index, now)
                left += max(self._expected(index) - passed, 0.0)
        return left / self._workers

    def _expected(self, index: int) -> float:
        run = self._todo[index]
        alike = [s for i, s in self._seconds.items() if self._todo[i].arm == run.arm]
        if alike:
            return statistics.fmean(alike)
        steps = sum(self._todo[i].config.train_steps for i in self._seconds)
        return sum(self._seconds.values()) * run.config.train_steps / steps
