"""The parts of a report: one per dataset of a study, and one for all single runs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.reporting import (
    answers,
    browser,
    confidence,
    costs,
    figures,
    labels,
    paper,
    pictures,
    rationales,
    rows,
    single_runs,
    statistics,
    study_files,
    tables,
    truncated,
    verdict,
)
from sbs_jax.reporting.answers import Answers
from sbs_jax.reporting.browser import Browser
from sbs_jax.reporting.figures import Curves
from sbs_jax.reporting.pictures import Figure
from sbs_jax.reporting.rows import Row, row_name
from sbs_jax.reporting.statistics import Summary
from sbs_jax.reporting.study_files import Sources, Study
from sbs_jax.reporting.tables import Table
from sbs_jax.runs.reader import Run
from sbs_jax.utils.buckets import AnyPath


@dataclasses.dataclass(frozen=True)
class Section:
    """One dataset of a study, or all single runs.

    Attributes:
        verdict: the answer in sentences, first of all.
        remarks: sentences computed from the numbers.
        caveats: what the numbers do not show, in the study's own words.
        numbers: everything in the tables before rounding.
        browser: all test answers, for the page; None where there are none.
        command: that ran the study.
    """

    title: str
    intro: str
    verdict: Sequence[str]
    tables: Sequence[Table]
    figures: Sequence[Figure]
    remarks: Sequence[str]
    caveats: Sequence[str]
    numbers: Any
    browser: Browser | None
    versions: dict[str, str]
    command: str = ""

    def text(self) -> str:
        """For a terminal."""
        brief = (table for table in self.tables if table.lines and not table.detail)
        blocks = "\n\n".join(table.text() for table in brief)
        bullets = "\n".join(f"- {sentence}" for sentence in (*self.remarks, *self.caveats))
        return "\n\n".join(part for part in (self.title, *self.verdict, blocks, bullets) if part)

    def markdown(self) -> str:
        """The same as Markdown."""
        blocks = [table.markdown() for table in self.tables if table.lines]
        bullets = "\n".join(f"- {sentence}" for sentence in (*self.remarks, *self.caveats))
        parts = (f"# {self.title}", self.intro, *self.verdict, *blocks, bullets)
        return "\n\n".join(part for part in parts if part)

    def to_json(self) -> dict[str, Any]:
        """Title, verdict, numbers, and the tables as they are shown."""
        return {
            "title": self.title,
            "verdict": list(self.verdict),
            "numbers": self.numbers,
            "tables": [table.to_json() for table in self.tables if table.lines],
            "versions": self.versions,
            "command": self.command,
        }


def build(sources: Sources) -> list[Section]:
    """The sections of a report, studies first; their figures' names differ."""
    parts: list[Section] = []
    for name, folder in sources.studies.items():
        parts += _study(folder, name if len(sources.studies) > 1 else "", len(parts))
    if sources.runs or sources.problems:
        parts.append(_single(sources))
    return parts


def _study(folder: AnyPath, name: str, before: int) -> list[Section]:
    study = study_files.read_study(folder)
    datasets = study.datasets() if study.rows else {"": []}
    parts = []
    for index, (dataset, of_dataset) in enumerate(datasets.items()):
        heading = ": ".join(
            part for part in (name, study.texts.title, dataset if len(datasets) > 1 else "") if part
        )
        parts.append(_dataset(study, of_dataset, heading, before + index))
    return parts


def _dataset(study: Study, of_dataset: Sequence[Row], title: str, index: int) -> Section:
    texts = study.texts
    runs = {row: study.runs[row] for row in of_dataset if row in study.runs}
    by_row = {row: study.answers[row] for row in of_dataset if row in study.answers}
    shown = _one_of_each_arm(by_row)
    if not of_dataset and study.failures:
        summary = Summary({}, None, [], [], [], None, {})
    else:
        summary = statistics.summarise(of_dataset, by_row)
    in_order = [
        tables.accuracy_table(summary, texts.baseline),
        tables.teacher_table(summary),
        tables.difference_table(summary),
        tables.failure_table(study.failures),
        tables.pair_table(summary),
        *_label_tables(summary, by_row),
        *(
            t
            for row in shown
            for t in _confidence(row_name(row), by_row[row], answers.read(runs[row], "validation"))
        ),
        rationales.rationale_table([(row_name(row), by_row[row]) for row in by_row]),
        truncated.table([(row_name(row), runs[row]) for row in runs]),
        costs.cost_table(of_dataset, runs),
        costs.size_table(of_dataset, runs, texts.teacher_parameters),
    ]
    beside_paper = paper.paper_table(summary, runs)
    embedded = browser.build([(row_name(row), by_row[row]) for row in by_row])
    return Section(
        title=title,
        intro=texts.intro,
        verdict=[
            *(verdict.sentences(summary) if summary.cells else ["No run has finished."]),
            *verdict.smallest(summary, costs.sizes(runs), texts.teacher_parameters),
            *texts.search,
        ],
        tables=[*in_order, *([beside_paper] if beside_paper else [])],
        figures=pictures.of_study(summary, runs, texts, index, {row: by_row[row] for row in shown})
        if summary.cells
        else [],
        remarks=[
            *(tables.remarks(summary, texts.baseline) if summary.cells else []),
            *_left_out(embedded),
        ],
        caveats=texts.caveats,
        numbers=summary.to_json(),
        browser=embedded,
        versions=versions(list(runs.values())),
        command=texts.command,
    )


def _one_of_each_arm(by_row: Mapping[Row, Answers]) -> list[Row]:
    """The first seed of every arm with its most labels: the others would fill pages."""
    chosen: dict[str, Row] = {}
    for row in sorted(by_row, key=lambda row: (-row.fraction, row.seed)):
        chosen.setdefault(row.arm, row)
    return list(chosen.values())


def _confidence(name: str, of_test: Answers, validation: Answers | None) -> list[Table]:
    return confidence.confidence_tables(name, of_test, validation.rows if validation else [])


def _left_out(embedded: Browser | None) -> list[str]:
    if embedded is None or not embedded.left_out:
        return []
    names = embedded.left_out
    return [
        f"The page holds the answers of {embedded.runs} runs; those of {len(names)} more would "
        f"make it too large: {'; '.join(names)}."
    ]


def _label_tables(summary: Summary, by_row: dict[Row, Answers]) -> list[Table]:
    """Of every arm with the most labels, its seeds together."""
    if not summary.labels:
        return []
    largest = max(summary.labels)
    parts = []
    for arm in summary.arms:
        of_arm = [by_row[row] for row in by_row if (row.arm, row.fraction) == (arm, largest)]
        name = f"{rows.arm_name(arm)} with {rows.labels_name(largest, summary.labels[largest])}"
        parts += labels.label_tables(f"{name} labels", of_arm)
    return parts


def _single(sources: Sources) -> Section:
    runs, problems = sources.runs, [*sources.problems]
    by_run = [(run, answer) for run in runs if (answer := _readable(run, "test", problems))]
    validation = {run.name: _readable(run, "validation", problems) for run, _ in by_run}
    curves = [
        Curves(study_files.arm(run), run.name, "", run.curves(figures.CURVES)) for run in runs
    ]
    embedded = browser.build([(run.name, answer) for run, answer in by_run])
    count = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
    pairs = single_runs.pairs(by_run)
    return Section(
        title=f"{count}: {', '.join(run.name for run in runs)}" if runs else "Nothing to report",
        intro="",
        verdict=[],
        tables=[
            single_runs.result_table(runs, problems),
            truncated.table([(run.name, run) for run in runs]),
            single_runs.pair_table(pairs),
            *(t for run, answer in by_run for t in labels.label_tables(run.name, [answer])),
            *(
                t
                for run, answer in by_run
                for t in _confidence(run.name, answer, validation[run.name])
            ),
            rationales.rationale_table([(run.name, answer) for run, answer in by_run]),
        ],
        figures=pictures.learning_curves(curves, "curves") if figures.available() else [],
        remarks=[*single_runs.REMARKS, *_left_out(embedded)],
        caveats=(),
        numbers=single_runs.numbers(pairs),
        browser=embedded,
        versions=versions(runs),
    )


def _readable(run: Run, split: str, problems: list[tuple[str, str]]) -> Answers | None:
    """The answers of a run; None, and a problem more, where their file is damaged."""
    try:
        return answers.read(run, split)
    except UserError as error:
        problems.append((run.name, str(error)))
        return None


def versions(runs: Sequence[Run]) -> dict[str, str]:
    """Library -> version, or versions where runs differ."""
    by_library: dict[str, set[str]] = {}
    for run in runs:
        for library, version in (run.results or {}).get("versions", {}).items():
            by_library.setdefault(library, set()).add(version)
    return {library: " and ".join(sorted(names)) for library, names in by_library.items()}
