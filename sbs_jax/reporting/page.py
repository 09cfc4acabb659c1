"""Finished runs and studies -> tables, figures with their data, and one self-contained HTML page.

Reads what `sbs train`, `sbs study` and `sbs demo` leave behind and never a model, so a report can
be made anywhere, and made again.
"""

import base64
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.reporting import figures, statistics, study_files, tables
from sbs_jax.reporting.figures import Curves
from sbs_jax.reporting.statistics import Row, Summary
from sbs_jax.reporting.tables import Table
from sbs_jax.runs import reader
from sbs_jax.runs.reader import Run
from sbs_jax.utils import paths

PAGE = "report.html"
_MOST_OF_A_KIND = 20  # predictions shown of a run: so many wrong ones, so many right ones


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture, what it shows in words, and the numbers drawn in it."""

    name: str
    png: bytes
    caption: str
    data: Any

    @property
    def inline(self) -> str:
        """As the address of an image that is part of the page."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some predictions of a run beside gold and teacher; `right` and `wrong` count all of them."""

    name: str
    rows: list[dict[str, Any]]
    right: int
    wrong: int


@dataclasses.dataclass(frozen=True)
class Section:
    """One study, or all single runs.

    Attributes:
        remarks: sentences computed from the numbers.
        caveats: what the numbers do not show, in the study's own words.
    """

    title: str
    intro: str
    tables: list[Table]
    figures: list[Figure]
    remarks: list[str]
    caveats: Sequence[str]
    samples: list[Sample]
    versions: dict[str, str]

    def text(self) -> str:
        """For a terminal."""
        tables = "\n\n".join(table.text() for table in self.tables)
        said = "\n".join(f"- {sentence}" for sentence in (*self.remarks, *self.caveats))
        return f"{self.title}\n\n{tables}\n\n{said}"


def write(sources: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> str:
    """Writes OUT/report.html, and its pictures (PNG) with their data (JSON) beside it.

    Args:
        sources: MODEL_DIRs, study folders, or folders that hold such.

    Returns:
        The tables and remarks as text.

    Raises:
        UserError: a folder with neither runs nor studies, a file that cannot be understood, or a
            library of the extra ``report`` that is missing.
    """
    studies, runs = study_files.find([Path(source) for source in sources])
    sections = [_study(folder, index) for index, folder in enumerate(studies)]
    if runs:
        sections.append(_single_runs(runs))
    page = _template().render(title=sections[0].title, sections=sections)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for figure in (figure for section in sections for figure in section.figures):
        _write_whole(out / f"{figure.name}.png", figure.png)
        _write_whole(out / f"{figure.name}.json", json.dumps(figure.data, indent=1).encode())
    _write_whole(out / PAGE, page.encode())
    return "\n\n".join(section.text() for section in sections)


def _study(folder: Path, index: int) -> Section:
    rows, texts = study_files.read_study(folder)
    summary = statistics.summarise(rows)
    suffix = f"-{index + 1}" if index else ""
    accuracy = Figure(
        name=f"accuracy{suffix}",
        png=figures.accuracy_png(summary, texts.title, texts.baseline),
        caption=(
            "Test accuracy against the number of labels. Large marks: means over seeds with their "
            "95% intervals; small dots: the seeds. The teacher's line has its own 95% interval."
        ),
        data=summary.to_json(),
    )
    runs = [
        (row, reader.read_run(folder / row.model_dir, row.model_dir))
        for row in rows
        if row.model_dir and (folder / row.model_dir).is_dir()
    ]
    curves = [
        Curves(row.arm, statistics.arm_name(row.arm), _labels(row), run.curves(figures.CURVES))
        for row, run in runs
    ]
    return Section(
        title=texts.title,
        intro=texts.intro,
        tables=[
            tables.accuracy_table(summary, texts.baseline),
            tables.difference_table(summary),
        ],
        figures=[accuracy, *_curves(curves, f"curves{suffix}", "a line per seed")],
        remarks=tables.remarks(summary, texts.baseline),
        caveats=texts.caveats,
        samples=_middle_sample(summary, runs),
        versions=_versions([run for _, run in runs]),
    )


def _labels(row: Row) -> str:
    return f"{statistics.labels_name(row.fraction, row.train_examples)} labels"


def _middle_sample(summary: Summary, runs: Sequence[tuple[Row, Run]]) -> list[Sample]:
    """Of the first seed's run with rationales at the median fraction, or at the nearest to it."""
    fractions = list(summary.labels)
    middle = fractions[len(fractions) // 2]
    nearest = sorted(runs, key=lambda pair: (abs(pair[0].fraction - middle), pair[0].seed))
    for row, run in nearest:
        name = f"{statistics.arm_name(row.arm)}, {_labels(row)}, seed {row.seed}"
        if sample := _sample(run, name):
            return [sample]
    return []


def _single_runs(runs: list[Run]) -> Section:
    heads = ("run", "task", "split", "student", "teacher", "majority label", "step", "parameters")
    accuracies = Table(
        "Accuracy, 95% Wilson interval and counts; the teacher and the commonest training label "
        "on the same questions",
        heads,
        "<<<>>>>>",
        [line for run in runs for line in _result_lines(run)],
    )
    curves = [
        Curves(study_files.arm(run), run.name, "", run.curves(figures.CURVES)) for run in runs
    ]
    samples = [_sample(run, run.name) for run in runs]
    return Section(
        title=f"{len(runs)} run{'s' if len(runs) > 1 else ''}: "
        + ", ".join(run.name for run in runs),
        intro="",
        tables=[accuracies],
        figures=_curves(curves, "curves", "a line per run"),
        remarks=[
            "An interval says how well so many questions pin this run's accuracy down; it does not "
            "say what another seed would give. Compare methods over seeds (sbs study)."
        ],
        caveats=(),
        samples=[sample for sample in samples if sample],
        versions=_versions(runs),
    )


def _result_lines(run: Run) -> list[tuple[str, ...]]:
    if not run.results:
        return [(run.name, "not finished", *[""] * 6)]
    lines = []
    for result in run.results["results"]:
        found = (statistics.parse_accuracy(result), *map(
            statistics.parse_accuracy, (result.get("teacher"), result.get("majority"))
        ))  # fmt: skip
        shown = (str(accuracy) if accuracy else "-" for accuracy in found)
        parameters = run.results.get("model", {}).get("parameters")
        size = f"{parameters:,}" if parameters else ""
        step = str(run.results["step"])
        lines.append((run.name, result["task"], result["split"], *shown, step, size))
    return lines


def _curves(curves: list[Curves], name: str, manner: str) -> list[Figure]:
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return []
    caption = f"Training losses per task and accuracy on validation against the update, {manner}."
    data = [dataclasses.asdict(curve) for curve in curves]
    return [Figure(name, figures.curves_png(curves, "Learning curves"), caption, data)]


def _sample(run: Run, name: str) -> Sample | None:
    """Wrong and right predictions, evenly spaced over the test; None without rationales."""
    rows = run.test_predictions()
    if not any(row.get("rationale") for row in rows):
        return None
    wrong = [row for row in rows if not row["correct"]]
    right = [row for row in rows if row["correct"]]
    return Sample(name, [*_spaced(wrong), *_spaced(right)], len(right), len(wrong))


def _spaced(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    shown = min(_MOST_OF_A_KIND, len(rows))
    return [rows[i * len(rows) // shown] for i in range(shown)]


def _versions(runs: Sequence[Run]) -> dict[str, str]:
    """Library -> version, or versions where runs differ."""
    found: dict[str, set[str]] = {}
    for run in runs:
        for library, version in (run.results or {}).get("versions", {}).items():
            found.setdefault(library, set()).add(version)
    return {library: " and ".join(sorted(versions)) for library, versions in found.items()}


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise UserError("jinja2 is missing; pip install 'sbs_jax[report]'") from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(paths.asset(PAGE).read_text(encoding="utf-8"))


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    partial.write_bytes(content)
    partial.replace(path)
