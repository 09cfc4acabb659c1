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

from sbs_jax.configs import TrainConfig
from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.reporting import study_files
from sbs_jax.reporting.rows import arm_name, labels_name
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.runs import reader
from sbs_jax.studies.workers import ONE_CPU_THREAD, Outcome, Workers
from sbs_jax.utils import jsonl
from sbs_jax.utils.console import duration, say
from sbs_jax.utils.files import locked, write_lines

_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"

# A run may change these between its starts; the rows of a study are compared with each other.
_OF_THE_SCORE = ("eval_num_examples", "max_decode_length")

_Key = tuple[str, float, int]


@dataclasses.dataclass(frozen=True)
class Run:
    """A cell of the grid.

    Attributes:
        arm: what is compared; `rows.ARM_NAMES` holds the usual ones.
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
    def key(self) -> _Key:
        """(arm, fraction, seed)"""
        return self.arm, self.config.data_fraction, self.config.random_seed

    @property
    def settings(self) -> str:
        """Changes with anything that would make it another run, or its score another one."""
        text = json.dumps(_fixed(dataclasses.asdict(self.config)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _fixed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that may not differ between the starts of one run, or decide its score."""
    from sbs_jax.runs import run_dir  # imports jax, which a dry run does without

    free = {*run_dir.FREE_FIELDS} - {*_OF_THE_SCORE}
    return {name: value for name, value in fields.items() if name not in free}


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
        UserError: a row has other settings, the folder cannot be written or is another process's
            at the moment, or a run was refused.
        KeyboardInterrupt: what is finished is kept, and the same call continues.
    """
    rows = _finished(study)
    todo = [run for run in study.runs if run.key not in rows]
    _begin(study)
    done, total = len(study.runs) - len(todo), len(study.runs)
    if done:
        say(f"{study.folder}: {done} of {total} runs are finished already")
    if not todo:
        return
    count = min(study.workers, len(todo))
    logs = study.folder / "logs"
    say(f"{len(todo)} runs on {count} worker{'s' if count > 1 else ''}; their logs: {logs}")
    say("The first takes longest: frameworks are loaded and programs compiled.")
    progress = _Progress(todo, total, count)
    pairs = [(run.config, run.config_gin) for run in todo]
    try:
        with (
            locked(study.folder, "STUDY_DIR"),
            Workers(count, study.prepare, study.environment, logs) as workers,
        ):
            for index, outcome in workers.train(pairs, progress.started):
                run_ = todo[index]
                rows[run_.key] = _row(study.folder, run_, outcome)
                _write_rows(study.folder, rows.values())
                progress.finished(index, outcome, rows[run_.key])
                done += 1
    except KeyboardInterrupt:
        say(f"{done} of {total} runs are finished; the same command continues")
        raise


def _begin(study: Study) -> None:

    texts = json.dumps(dataclasses.asdict(study.texts), indent=2)
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
        write_lines(study.folder / study_files.STUDY_TEXTS, [texts + "\n"])
    except OSError as error:
        raise UserError(
            f"STUDY_DIR {study.folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def _finished(study: Study) -> dict[_Key, dict[str, Any]]:
    """The rows of study.jsonl by key, those of cells that are not asked for now too."""
    path = study.folder / study_files.STUDY_ROWS
    known = {run.key: run for run in study.runs}
    rows = {}
    for where, row in jsonl.objects(path) if path.exists() else ():
        key = _key(row, where)
        run = known.get(key)
        if run and row.get("settings") != run.settings:
            _check_same(run, where)
            row = {**row, "settings": run.settings}
        rows[key] = row
    return rows


def _key(row: Mapping[str, Any], where: str) -> _Key:
    arm, fraction, seed = (row.get(name) for name in ("arm", "fraction", "seed"))
    if not (isinstance(arm, str) and isinstance(fraction, int | float) and isinstance(seed, int)):
        raise UserError(
            f"{where}: not a row of a study: arm, fraction and seed must be a name, a number and a "
            "whole number; remove the line, and its run is scored again"
        )
    return arm, float(fraction), seed


def _check_same(run: Run, where: str) -> None:
    """Raises UserError, naming a field if run.json tells it, unless the row is of this very run.

    Rows of earlier versions were marked by more of the settings.
    """
    from sbs_jax.runs import run_dir  # imports jax, which a dry run does without

    try:
        before = _fixed(dataclasses.asdict(run_dir.load(run.config.model_dir)))
        now = _fixed(dataclasses.asdict(run.config))
        changes = (f"{n} was {before[n]!r}, now {now[n]!r}" for n in now if before[n] != now[n])
        change = next(changes, "")
    except UserError:
        change = "its folder does not tell which"
    if change:
        raise UserError(
            f"{where}: {run.arm}, fraction {run.config.data_fraction:g}, seed "
            f"{run.config.random_seed} was run with other settings: {change}; choose another "
            "folder, or the settings it had"
        )


def _row(folder: Path, run: Run, outcome: Outcome) -> dict[str, Any]:
    """The object of study.jsonl; see `rows.Row`."""
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
    logged = reader.read_run(model_dir).metrics
    return round(sum(line.get("cpu_seconds", 0.0) for line in logged), 2)


def _write_rows(folder: Path, rows: Iterable[Mapping[str, Any]]) -> None:

    write_lines(folder / study_files.STUDY_ROWS, (json.dumps(row) + "\n" for row in rows))


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
