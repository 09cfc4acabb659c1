"""The least data with which an arm beats the teacher, by bisection over the fractions.

Accuracy is taken to rise with the data. Every fraction tried is a comparison, so each
is read at 5% divided by the number of looks that a bisection over these fractions can take.
"""

import dataclasses
import math
from collections.abc import Sequence

from sbs_jax.reporting import significance, statistics, study_files
from sbs_jax.reporting.rows import TEACHER
from sbs_jax.studies import runner
from sbs_jax.studies.cells import Group, Run, group_name
from sbs_jax.studies.runner import Study
from sbs_jax.utils.console import say


def looks(fractions: int) -> int:
    """The most fractions that a bisection trains: the largest, then halves of the rest.

    >>> [looks(n) for n in (1, 2, 3, 6)]
    [1, 2, 3, 4]
    """
    return 1 + math.ceil(math.log2(fractions))


def least_data(study: Study, most_runs: int) -> tuple[list[tuple[Run, str]], list[str]]:
    """Trains what the search needs, arm by arm.

    Returns:
        The runs that failed, and the path of the search, a sentence per arm.
    """
    groups: dict[Group, list[Run]] = {}
    for run in study.runs:
        groups.setdefault(run.group, []).append(run)
    failures: list[tuple[Run, str]] = []
    path = []
    budget = most_runs
    for group, runs in groups.items():
        search = _Search(study, group, runs, budget)
        path.append(search.run())
        failures += search.failures
        budget -= search.trained
    return failures, path


class _Search:
    """Bisection for one arm; `trained` counts its runs, finished earlier ones included."""

    def __init__(self, study: Study, group: Group, runs: Sequence[Run], budget: int) -> None:
        self._study, self._group, self._runs, self._budget = study, group, runs, budget
        self.trained = 0
        self.failures: list[tuple[Run, str]] = []
        self._steps: list[str] = []

    def run(self) -> str:
        """Runs the bisection; returns a sentence with its path and result."""
        fractions = sorted({run.config.data_fraction for run in self._runs})
        level = significance.LEVEL / looks(len(fractions))
        least, low, high = None, 0, len(fractions) - 1
        place = high
        while low <= high:
            wins = self._wins(fractions[place], level)
            if wins is None:
                break
            if wins:
                least, high = fractions[place], place - 1
            else:
                low = place + 1
            place = (low + high) // 2
        end = "none of these fractions" if least is None else f"{100 * least:.4g}% of the data"
        sentence = (
            f"Search, {group_name(self._group)}: {'; '.join(self._steps)}. "
            f"Least data shown to beat the {TEACHER}: {end} (each look at level {level:.3g})."
        )
        say(sentence)
        return sentence

    def _wins(self, fraction: float, level: float) -> bool | None:
        """Whether the arm beats the teacher at a fraction; None if unknown."""
        runs = [run for run in self._runs if run.config.data_fraction == fraction]
        if self.trained + len(runs) > self._budget:
            self._steps.append(f"{100 * fraction:.4g}% would exceed search_runs")
            return None
        self.trained += len(runs)
        failures = runner.run(dataclasses.replace(self._study, runs=runs))
        self.failures += failures
        difference = None if failures else self._difference(runs)
        if difference is None or not difference.accuracy.readable:
            reason = "a run failed" if failures else "no comparison with the teacher"
            if difference is not None:
                reason = difference.reading
            self._steps.append(f"{100 * fraction:.4g}% {reason}")
            return None
        estimate = difference.accuracy
        wins = estimate.mean > 0 and (estimate.p or 0.0) < level
        verdict = "beats" if wins else "does not beat"
        self._steps.append(
            f"{100 * fraction:.4g}% {verdict} it ({difference.arm_accuracy:.3f} against "
            f"{difference.base_accuracy:.3f}, p {estimate.p:.2g})"
        )
        return wins

    def _difference(self, runs: Sequence[Run]) -> statistics.Difference | None:
        folders = {str(run.config.model_dir) for run in runs}
        study = study_files.read_study(self._study.folder)
        rows = [
            row
            for row in study.rows
            if row.model_dir and str(self._study.folder / row.model_dir) in folders
        ]
        answers = {row: study.answers[row] for row in rows if row in study.answers}
        against = statistics.summarise(rows, answers).against(teacher=True)
        return against[0] if against else None
