"""What training and studies leave in their folders, read back for reports."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.metrics import accuracy
from sbs_jax.reporting import statistics
from sbs_jax.reporting.statistics import Row

STUDY_ROWS, STUDY_TEXTS = "study.jsonl", "study.json"
_RESULTS, _METRICS = "results.json", "metrics.jsonl"
# A mixture's method, where the arm of a study is called otherwise.
_ARM_OF_METHOD = {"finetune": "standard"}


@dataclasses.dataclass(frozen=True)
class Run:
    """A MODEL_DIR as its files describe it.

    Attributes:
        results: content of results.json; None while the run has not finished.
        metrics: the objects of metrics.jsonl.
    """

    name: str
    folder: Path
    results: dict[str, Any] | None
    metrics: list[dict[str, Any]]

    @property
    def arm(self) -> str:
        """What was trained, e.g. step_by_step; the run's name where that is unknown."""
        mixture = self.results["mixture"] if self.results else ""
        methods = [m for m in (*statistics.ARM_NAMES, *_ARM_OF_METHOD) if mixture.endswith(f"_{m}")]
        method = max(methods, key=len, default=self.name)
        return _ARM_OF_METHOD.get(method, method)

    def curves(self, names: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
        """Logged scalar -> its points (step, value), for those of the names that were logged."""
        found = {
            name: [(logged["step"], logged[name]) for logged in self.metrics if name in logged]
            for name in names
        }
        return {name: points for name, points in found.items() if points}

    def test_predictions(self) -> list[dict[str, Any]]:
        """The rows of the predictions file that results.json speaks of; none without it.

        Each gets ``teacher_correct``: by the run's metric, or as equal text if that is the user's
        own function.
        """
        if not self.results:
            return []
        files = sorted(self.folder.glob(f"predictions-*-test-{self.results['step']}.jsonl"))
        rows = [row for _, row in read_lines(files[0])] if files else []
        metric = self.results.get("metric")
        metric = metric if metric in accuracy.METRICS else "text"
        for row in rows:
            label = row.get("teacher_label")
            row["teacher_correct"] = label is not None and accuracy.is_correct(
                metric, label, row["gold"]
            )
        return rows


@dataclasses.dataclass(frozen=True)
class StudyTexts:
    """What a study says about itself.

    Attributes:
        title: what was really run: task, student, machine.
        intro: a paragraph above the tables.
        baseline: what the untrained guesser of the rows' ``majority`` does.
        caveats: what the study does not show, a sentence each.
    """

    title: str = "A study"
    intro: str = ""
    baseline: str = "majority label"
    caveats: Sequence[str] = ()


def find(sources: Sequence[Path]) -> tuple[list[Path], list[Run]]:
    """The study folders and the runs among the given folders, or else among what they hold.

    Raises:
        UserError: a folder without either, or a file that cannot be understood.
    """
    studies, runs = [], []
    for source in sources:
        children = sorted(source.iterdir()) if source.is_dir() else []
        found = [source] if _kind(source) else [child for child in children if _kind(child)]
        if not found:
            raise UserError(
                f"--runs {source}: neither it nor a folder in it holds {_RESULTS}, {_METRICS} or "
                f"{STUDY_ROWS}; give what sbs train, sbs study or sbs demo has written"
            )
        studies += [folder for folder in found if _kind(folder) == STUDY_ROWS]
        runs += [read_run(folder) for folder in found if _kind(folder) != STUDY_ROWS]
    return studies, runs


def _kind(folder: Path) -> str:
    """The file that tells what a folder is, or nothing."""
    return next((n for n in (STUDY_ROWS, _RESULTS, _METRICS) if (folder / n).is_file()), "")


def read_run(folder: Path, name: str = "") -> Run:
    """Reads a MODEL_DIR; its name is the folder's if none is given.

    Raises:
        UserError: file, line and field of what cannot be understood.
    """
    results, metrics = folder / _RESULTS, folder / _METRICS
    logged = list(read_lines(metrics, still_written=True)) if metrics.exists() else []
    for where, fields in logged:
        if not isinstance(fields.get("step"), int):
            raise UserError(f"{where}: field 'step' is missing")
    return Run(
        name=name or folder.resolve().name,
        folder=folder,
        results=_read_results(results) if results.exists() else None,
        metrics=[fields for _, fields in logged],
    )


def _read_results(path: Path) -> dict[str, Any]:
    fields = _parse(path.read_text(encoding="utf-8"), str(path))
    for name in ("mixture", "step", "results"):
        if name not in fields:
            raise UserError(f"{path}: field {name!r} is missing; run sbs evaluate again")
    return fields


def read_study(folder: Path) -> tuple[list[Row], StudyTexts]:
    """The rows of study.jsonl, and the texts of study.json if it is there.

    Raises:
        UserError: file, line and field of what cannot be understood.
    """
    rows = [statistics.parse_row(row, where) for where, row in read_lines(folder / STUDY_ROWS)]
    path = folder / STUDY_TEXTS
    texts = _parse(path.read_text(encoding="utf-8"), str(path)) if path.exists() else {}
    known = {field.name for field in dataclasses.fields(StudyTexts)}
    if unknown := texts.keys() - known:
        raise UserError(
            f"{path}: unknown field {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}"
        )
    return rows, StudyTexts(**texts)


def read_lines(
    path: str | os.PathLike[str], still_written: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of every line of a JSONL file.

    Args:
        still_written: the last line may be torn, and is then left out.

    Raises:
        UserError: a line that is no JSON object.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield f"{path}:{number}", _parse(line, f"{path}:{number}")
        except UserError:
            if not (still_written and number == len(lines)):
                raise


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg})") from None
    if not isinstance(fields, dict):
        raise UserError(f"{where}: expected a JSON object")
    return fields
