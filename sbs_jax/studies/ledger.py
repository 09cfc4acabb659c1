"""Tracks study.jsonl while a study runs: rows of this process and of others that share it."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sbs_jax.reporting import study_files
from sbs_jax.studies import study_rows
from sbs_jax.studies.cells import Run
from sbs_jax.studies.claims import Claims
from sbs_jax.utils.console import say
from sbs_jax.utils.files import locked

_FILE = study_files.STUDY_ROWS


class Ledger:
    """The rows of a study's runs.

    A run is over once it has a row: of its result, or of a failure in this start of the study. What
    failed before is tried again.

    Args:
        folder: STUDY_DIR.
        runs: of the study.

    Raises:
        UserError: a row has other settings or other data.
    """

    def __init__(self, folder: Path, runs: Sequence[Run]) -> None:
        self._folder, self._runs = folder, runs
        self._claims: Claims | None = None
        self._read()

    def _read(self) -> None:
        self._rows = study_rows.read(self._folder, self._runs)
        self._failed_before = {key: row for key, row in self._rows.items() if "error" in row}

    @contextlib.contextmanager
    def reserved(self, shared: bool) -> Iterator[str]:
        """Has the folder alone, or shares it, reads the rows; gives a name for the process's logs.

        Raises:
            UserError: another process has the folder for itself; as the constructor.
        """
        if not shared:
            with locked(self._folder, "STUDY_DIR"):
                self._read()
                yield ""
            return
        with Claims(self._folder) as self._claims:
            self._read()
            yield self._claims.owner

    def _name(self, run: Run) -> str:
        """The name of the run's claim."""
        return study_rows.model_dir(self._folder, run).replace(os.sep, "-")

    def is_over(self, run: Run) -> bool:
        """Whether there is nothing left to do for it."""
        row = self._rows.get(run.key)
        return row is not None and row != self._failed_before.get(run.key)

    def left(self) -> list[Run]:
        """The runs that are not over, here or elsewhere."""
        return [run for run in self._runs if not self.is_over(run)]

    @property
    def finished(self) -> int:
        """Number of runs with a result."""
        return sum("error" not in self._rows.get(run.key, {"error": ""}) for run in self._runs)

    def failures(self) -> list[tuple[Run, str]]:
        """The runs that failed, each with its reason."""
        rows = ((run, self._rows.get(run.key, {})) for run in self._runs)
        return [(run, row["error"]) for run, row in rows if "error" in row]

    def begin(self, run: Run) -> bool:
        """Whether this process may train a run now."""
        if self._claims is None:
            return True
        if not self._claims.take(self._name(run)):
            return False
        self.refresh()  # another may have finished it just before
        if self.is_over(run):
            self._claims.release(self._name(run))
            return False
        return True

    def end(self, run: Run, row: dict[str, Any]) -> dict[str, Any]:
        """Adds a row to study.jsonl and returns it; a failure's with its number of tries."""
        if "error" in row:
            row = row | {"tries": self._failed_before.get(run.key, {}).get("tries", 0) + 1}
        if self._claims and self._claims.holder(self._name(run)) != self._claims.owner:
            say(f"{run.name}: took too long to be heard of, and is another machine's now")
            return row
        with self._alone():
            self.refresh()
            self._rows[run.key] = row
            study_rows.write(self._folder, self._rows.values())
        if self._claims:
            self._claims.release(self._name(run))
        return row

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with self._claims.held(_FILE) if self._claims else contextlib.nullcontext():
            yield

    def refresh(self) -> None:
        """Reads what others have added."""
        if self._claims:
            self._rows |= study_rows.read(self._folder, self._runs)

    def elsewhere(self) -> str:
        """Which machines the runs that are left are on, for a message."""
        assert self._claims is not None, "alone, no run is elsewhere"
        held = ((run, self._claims.holder(self._name(run))) for run in self.left())
        return "; ".join(f"{run.name} ({owner or 'nobody now'})" for run, owner in held)
