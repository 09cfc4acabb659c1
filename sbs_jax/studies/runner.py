"""Grids of runs: arms x data fractions x seeds, one row of study.jsonl per run.

What is finished is never done again: a run that has a row is skipped, and one that was interrupted
continues from its last checkpoint. A run that fails is a row with its reason; the others are done,
and the next start tries it again. `reporting.page` makes tables and figures of the folder.
"""

import contextlib
import dataclasses
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.reporting import study_files
from sbs_jax.reporting.rows import arm_name, labels_name
from sbs_jax.reporting.study_files import StudyTexts
from sbs_jax.studies import study_rows
from sbs_jax.studies.cells import Key, Run
from sbs_jax.studies.ledger import Ledger
from sbs_jax.studies.worker_logs import Logs
from sbs_jax.studies.workers import ONE_CPU_THREAD, Failure, Outcome, Workers
from sbs_jax.utils import buckets, compile_cache, paths
from sbs_jax.utils.console import Progress, duration, say
from sbs_jax.utils.files import write_lines

_POLL_SECONDS = 5.0  # between two looks at what other machines have finished
_WAITING_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Study:
    """A folder and the runs it is to hold.

    Attributes:
        runs: in the order in which they are begun; their MODEL_DIRs lie in the folder.
        texts: what the study says of itself, for study.json.
        prepare: called once in every worker, e.g. to register datasets; can be pickled.
        workers: processes that train side by side.
        environment: variables set before a worker imports jax.
        shared: several machines have the folder, and each trains what no other has claimed.
    """

    folder: Path
    runs: Sequence[Run]
    texts: StudyTexts
    prepare: Callable[[], object]
    workers: int
    environment: Mapping[str, str]
    shared: bool = False


def environment(folder: Path, one_cpu_thread: bool) -> dict[str, str]:
    """Variables for workers, which share compiled programs.

    Those are kept where the user says, else in the folder, or on this machine if it is a bucket's.
    """
    cache = compile_cache.default_folder() if paths.is_remote(folder) else folder / "cache"
    kept_in = os.environ.get(compile_cache.DIRECTORY, str(cache))
    shared = {name: str(value) for name, value in compile_cache.settings(kept_in).items()}
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
    ledger = Ledger(study.folder, study.runs)
    with _writing(study.folder):
        buckets.make_folder(study.folder)
    with ledger.reserved(study.shared) as name:
        tell(study, study.runs)
        total = len(study.runs)
        if ledger.finished:
            say(f"{study.folder}: {ledger.finished} of {total} runs are finished already")
        if not ledger.left():
            return []
        try:
            _start(study, ledger, Logs(study.folder, name))
        except KeyboardInterrupt:
            say(f"{ledger.finished} of {total} runs are finished; the same command continues")
            raise
        return ledger.failures()


def _start(study: Study, ledger: Ledger, logs: Logs) -> None:
    left = len(ledger.left())
    count = min(study.workers, left)
    say(f"{left} runs on {count} worker{'s' if count > 1 else ''}; their logs: {logs}")
    say("The first takes longest: frameworks are loaded and programs compiled.")
    try:
        with Workers(count, study.prepare, study.environment, logs.folder) as workers:
            _train(study, ledger, workers, logs)
    finally:
        logs.copy()


def _train(study: Study, ledger: Ledger, workers: Workers, logs: Logs) -> None:
    """Ends when no run is left, here or on another machine."""
    progress = _Progress(ledger, len(study.runs), workers.count)
    while todo := ledger.left():
        pairs = [(run.config, run.config_gin) for run in todo]
        for index, outcome in workers.train(pairs, lambda index: progress.begin(todo[index])):
            run = todo[index]
            if isinstance(outcome, Failure):
                ledger.end(run, study_rows.failed(run, outcome.reason))
                progress.failed(run, outcome.reason)
            else:
                row = ledger.end(run, study_rows.finished(study.folder, run, outcome))
                progress.finished(run, outcome, row)
            logs.copy()
        ledger.refresh()
        if ledger.left():
            progress.wait()


def refuse(failures: Sequence[tuple[Run, str]]) -> None:
    """Raises UserError, which names them, if there are failures."""
    if failures:
        named = "; ".join(f"{run.name}: {reason}" for run, reason in failures)
        count = f"{len(failures)} run{'s' if len(failures) > 1 else ''}"
        raise UserError(f"{count} failed, the same command tries again: {named}")


def tell(study: Study, planned: Sequence[Run]) -> None:
    """Writes what the study says of itself, and which runs it is to hold.

    Raises:
        UserError: the folder cannot be written.
    """
    places = [
        study_rows.place(run) | {"model_dir": study_rows.model_dir(study.folder, run)}
        for run in planned
    ]
    texts = json.dumps(dataclasses.asdict(study.texts) | {"planned": places}, indent=2)
    with _writing(study.folder):
        write_lines(study.folder / study_files.STUDY_TEXTS, [texts + "\n"])


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raises UserError where the block cannot write to the folder."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"STUDY_DIR {folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None


class _Progress:
    """A line for every finished run, with the time that the rest will take."""

    def __init__(self, ledger: Ledger, total: int, workers: int) -> None:
        self._ledger, self._total, self._workers = ledger, total, workers
        self._began: dict[Key, float] = {}
        self._seconds: dict[Key, float] = {}
        self._runs: dict[Key, Run] = {}
        self._waiting = Progress("waiting", period=_WAITING_SECONDS)

    def begin(self, run: Run) -> bool:
        """Whether this process may train it; its time runs from now."""
        if not self._ledger.begin(run):
            return False
        self._began[run.key], self._runs[run.key] = time.monotonic(), run
        return True

    def failed(self, run: Run, reason: str) -> None:
        self._seconds[run.key] = time.monotonic() - self._began[run.key]
        say(f"{self._count()} failed: {run.name}: {reason}")

    def wait(self) -> None:
        """A while, for runs that other machines have."""
        if self._waiting.due():
            say(f"waiting for {self._ledger.elsewhere()}")
        time.sleep(_POLL_SECONDS)

    def _count(self) -> str:
        done = self._total - len(self._ledger.left())
        return f"[{done:>{len(str(self._total))}}/{self._total}]"

    def finished(self, run: Run, outcome: Outcome, row: Mapping[str, Any]) -> None:
        self._seconds[run.key] = time.monotonic() - self._began[run.key]
        labels = labels_name(run.config.data_fraction, outcome.train_examples)
        accuracy = Accuracy.from_json(row)
        say(
            f"{self._count()} {arm_name(run.arm)}, {labels} labels, seed {run.config.random_seed}: "
            f"{accuracy.value:.3f} ({accuracy.counts})  "
            f"{outcome.seconds:.0f} s  ETA {duration(self._left())}"
        )

    def _left(self) -> float:
        """Seconds until all is done here, by the mean of finished runs of the same arm."""
        now = time.monotonic()
        left = 0.0
        for run in self._ledger.left():
            passed = now - self._began.get(run.key, now)
            left += max(self._expected(run) - passed, 0.0)
        return left / self._workers

    def _expected(self, run: Run) -> float:
        alike = [s for key, s in self._seconds.items() if self._runs[key].arm == run.arm]
        if alike:
            return statistics.fmean(alike)
        steps = sum(self._runs[key].config.train_steps for key in self._seconds)
        return sum(self._seconds.values()) * run.config.train_steps / steps
