"""What training leaves in a MODEL_DIR, read back for reports."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.metrics import accuracy
from sbs_jax.runs import layout
from sbs_jax.utils import jsonl
from sbs_jax.utils.buckets import resolved


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

    def curves(self, names: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
        """Logged scalar -> its points (step, value), for those of the names that were logged."""
        curves = {
            name: [(logged["step"], logged[name]) for logged in self.metrics if name in logged]
            for name in names
        }
        return {name: points for name, points in curves.items() if points}

    def predictions(self, split: str) -> list[dict[str, Any]]:
        """The rows of a split's predictions file of the step in results.json; none without it.

        Rows of earlier versions get ``teacher_correct``: by the run's metric, or as equal text if
        that is the user's own function.
        """
        if not self.results:
            return []
        files = layout.find_predictions(self.folder, split, self.results["step"])
        rows = [row for _, row in jsonl.objects(files[0])] if files else []
        return judge(rows, "equation" if self.results.get("metric") == "equation" else "text")


def judge(rows: list[dict[str, Any]], metric: accuracy.Metric) -> list[dict[str, Any]]:
    """The rows, given ``correct`` and ``teacher_correct`` where they lack them."""
    for row in rows:
        for label, judged in (("label", "correct"), ("teacher_label", "teacher_correct")):
            if row.get(judged) is None:
                answer = row.get(label)
                right = answer is not None and accuracy.is_correct(metric, answer, row["gold"])
                row[judged] = right
    return rows


def read_run(folder: Path, name: str = "") -> Run:
    """Reads a MODEL_DIR; without a name takes the folder's.

    Raises:
        UserError: file, line and field of what cannot be understood.
    """
    results, metrics = folder / layout.RESULTS, folder / layout.METRICS
    logged = list(jsonl.objects(metrics, still_written=True)) if metrics.exists() else []
    for where, fields in logged:
        if not isinstance(fields.get("step"), int):
            raise UserError(f"{where}: field 'step' is missing")
    return Run(
        name=name or resolved(folder).name,
        folder=folder,
        results=read_results(results) if results.exists() else None,
        metrics=[fields for _, fields in logged],
    )


def read_results(path: Path) -> dict[str, Any]:
    """The content of results.json. Raises UserError where it is not whole."""
    fields = jsonl.parse_object(path.read_text(encoding="utf-8"), str(path))
    for name in ("mixture", "step", "results"):
        if name not in fields:
            raise UserError(f"{path}: field {name!r} is missing; run sbs evaluate again")
    return fields
