"""Grids of runs: arms x data fractions x seeds, one row of study.jsonl per run.

What is finished is never done again: a run that has a row is skipped, and one that was interrupted
continues from its last checkpoint. A run that fails is a row with its reason; the others are done,
and the next start tries it again. `reporting.page` makes tables and figures of the folder.
"""

import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.reporting import study_files
from sbs_jax.reporting.rows import arm_name, labels_name
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.studies import study_rows
from sbs_jax.studies.cells import Key, Run
from sbs_jax.studies.workers import ONE_CPU_THREAD, Failure, Outcome, Workers
from sbs_jax.utils.console import duration, say
from sbs_jax.utils.files import locked, write_lines

_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


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


def run(study: Study) -> list[tuple[Run, str]]:
    """Trains what has no row yet, adding each row as its run ends; prints progress.

    Returns:
        The runs that failed, each with its reason.

    Raises:
        UserError: a row has other settings or other data, or the folder cannot be written or is
            another process's at the moment.
        KeyboardInterrupt: what is finished is kept, and the same call continues.
    """
    rows = study_rows.read(study.folder, study.runs)
    todo = [run for run in study.runs if "error" in rows.get(run.key, {"error": "not begun"})]
    _begin(study)
    done, total = len(study.runs) - len(todo), len(study.runs)
    if done:
        say(f"{study.folder}: {done} of {total} runs are finished already")
    if not todo:
        return []
    count = min(study.workers, len(todo))
    logs = study.folder / "logs"
    say(f"{len(todo)} runs on {count} worker{'s' if count > 1 else ''}; their logs: {logs}")
    say("The first takes longest: frameworks are loaded and programs compiled.")
    try:
        with (
            locked(study.folder, "STUDY_DIR"),
            Workers(count, study.prepare, study.environment, logs) as workers,
        ):
            return _train(study, todo, rows, workers)
    except KeyboardInterrupt:
        done = sum("error" not in rows.get(run.key, {"error": ""}) for run in study.runs)
        say(f"{done} of {total} runs are finished; the same command continues")
        raise


def _train(
    study: Study, todo: Sequence[Run], rows: dict[Key, dict[str, Any]], workers: Workers
) -> list[tuple[Run, str]]:
    """Adds a row to `rows`, and to the file, for every run as it ends."""
    progress = _Progress(todo, len(study.runs), workers.count)
    failures = []
    pairs = [(run.config, run.config_gin) for run in todo]
    for index, outcome in workers.train(pairs, progress.started):
        run = todo[index]
        if isinstance(outcome, Failure):
            rows[run.key] = study_rows.failed(run, outcome.reason)
            failures.append((run, outcome.reason))
            progress.failed(index, outcome.reason)
        else:
            rows[run.key] = study_rows.finished(study.folder, run, outcome)
            progress.finished(index, outcome, rows[run.key])
        study_rows.write(study.folder, rows.values())
    return failures


def refuse(failures: Sequence[tuple[Run, str]]) -> None:
    """Raises UserError, which names them, if there are failures."""
    if failures:
        named = "; ".join(f"{run.name}: {reason}" for run, reason in failures)
        count = f"{len(failures)} run{'s' if len(failures) > 1 else ''}"
        raise UserError(f"{count} failed, the same command tries again: {named}")


def _begin(study: Study) -> None:
    texts = json.dumps(dataclasses.asdict(study.texts), indent=2)
    try:
        study.folder.mkdir(parents=True, exist_ok=True)
        write_lines(study.folder / study_files.STUDY_TEXTS, [texts + "\n"])
    except OSError as error:
        raise UserError(
            f"STUDY_DIR {study.folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None


class _Progress:
    """A line for every finished run, with the time that the rest will take."""

    def __init__(self, todo: Sequence[Run], total: int, workers: int) -> None:
        self._todo, self._total, self._workers = todo, total, workers
        self._began: dict[int, float] = {}
        self._seconds: dict[int, float] = {}

    def started(self, index: int) -> None:
        self._began[index] = time.monotonic()

    def failed(self, index: int, reason: str) -> None:
        self._seconds[index] = time.monotonic() - self._began[index]
        say(f"{self._count()} failed: {self._todo[index].name}: {reason}")

    def _count(self) -> str:
        done = self._total - len(self._todo) + len(self._seconds)
        return f"[{done:>{len(str(self._total))}}/{self._total}]"

    def finished(self, index: int, outcome: Outcome, row: Mapping[str, Any]) -> None:
        self._seconds[index] = time.monotonic() - self._began[index]
        run = self._todo[index]
        labels = labels_name(run.config.data_fraction, outcome.train_examples)
        say(
            f"{self._count()} {arm_name(run.arm)}, {labels} labels, seed {run.config.random_seed}: "
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
