"""Reads a study's folder for reports."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sbs_jax.datasets import registry
from sbs_jax.errors import UserError
from sbs_jax.reporting import answers, rows
from sbs_jax.reporting.answers import Answers
from sbs_jax.reporting.rows import Failure, Row
from sbs_jax.runs import layout, reader, t5x_run
from sbs_jax.utils import jsonl
from sbs_jax.utils.buckets import AnyPath, read_bytes, resolved

STUDY_ROWS, STUDY_TEXTS = "study.jsonl", "study.json"
_KINDS = (STUDY_ROWS, layout.RESULTS, layout.METRICS, t5x_run.EVALUATIONS)
# A mixture's method, where the arm of a study has another name.
_ARM_OF_METHOD = {"finetune": "standard"}
# Earlier versions wrote it; intervals cover the questions now.
_OUTDATED = "All seeds share one set of test questions: intervals over seeds do not cover"


@dataclasses.dataclass(frozen=True)
class StudyTexts:
    """What a study says about itself.

    Attributes:
        title: what was really run: task, student, machine.
        intro: a paragraph above the tables.
        baseline: what the untrained guesser of the rows' ``majority`` does.
        caveats: what the study does not show, a sentence each.
        command: that ran it.
        teacher_parameters: of the teacher; None where that is unknown.
        search: the path of a search for the least data, a sentence per arm.
        planned: place in the grid and model_dir of every run that the study is to hold.
    """

    title: str = "A study"
    intro: str = ""
    baseline: str = "majority label"
    caveats: Sequence[str] = ()
    command: str = ""
    teacher_parameters: float | None = None
    search: Sequence[str] = ()
    planned: Sequence[Mapping[str, Any]] = ()


@dataclasses.dataclass(frozen=True)
class Study:
    """A study's folder as its files describe it.

    Attributes:
        runs, answers: of the rows whose MODEL_DIR, or predictions files, are there.
    """

    rows: list[Row]
    failures: list[Failure]
    texts: StudyTexts
    runs: Mapping[Row, reader.Run]
    answers: Mapping[Row, Answers]

    def datasets(self) -> dict[str, list[Row]]:
        """The rows that may share a table: those of one dataset, or of one dataset per seed."""
        seeds: dict[str, set[int]] = {}
        for row in self.rows:
            seeds.setdefault(row.dataset or "", set()).add(row.seed)
        one_each = all(len(of) == 1 for of in seeds.values())
        if one_each and len(set.union(*seeds.values())) == len(seeds):
            return {"": self.rows}
        return {name: [r for r in self.rows if (r.dataset or "") == name] for name in seeds}


def arm(run: reader.Run) -> str:
    """What a run trained, e.g. step_by_step; the run's name where that is unknown."""
    method = _method(run) or run.name
    return _ARM_OF_METHOD.get(method, method)


def dataset(run: reader.Run) -> str | None:
    """The dataset a run was trained on, or None if its mixture's name does not contain it."""
    method = _method(run)
    if method is None or run.results is None:
        return None
    return str(run.results["mixture"]).removesuffix(f"_{method}")


def _method(run: reader.Run) -> str | None:
    try:
        return registry.method_of(run.results["mixture"]).name if run.results else None
    except UserError:
        return None


@dataclasses.dataclass(frozen=True)
class Sources:
    """The studies and runs to report.

    Attributes:
        problems: (name, reason) of what was given and cannot be reported.
    """

    studies: dict[str, Path]
    runs: list[reader.Run]
    problems: list[tuple[str, str]]


def find(sources: Sequence[AnyPath]) -> Sources:
    """The studies and runs among the given folders, or else among what they hold.

    A folder that is given twice counts once. Studies and runs are named by the shortest ends of
    their paths that differ: base/final and large/final.

    Raises:
        UserError: none of the folders holds either.
    """
    folders: dict[AnyPath, AnyPath] = {}
    problems: list[tuple[str, str]] = []
    for source in sources:
        children = sorted(source.iterdir()) if source.is_dir() else []
        here = [source] if _kind(source) else [child for child in children if _kind(child)]
        folders |= {resolved(f): f for f in here if resolved(f) not in folders}
        if not here:
            problems.append((str(source), f"neither it nor a folder in it holds {_one_of(_KINDS)}"))
    if not folders:
        raise UserError(
            f"--runs {problems[0][0]}: {problems[0][1]}; give what sbs train, sbs study or sbs "
            "demo has written"
        )
    names = short_names(folders)
    sorted_out = Sources({}, [], problems)
    for path, folder in folders.items():
        kind = _kind(folder)
        if kind == STUDY_ROWS:
            sorted_out.studies[names[path]] = folder
            continue
        read = t5x_run.read if kind == t5x_run.EVALUATIONS else reader.read_run
        try:
            sorted_out.runs.append(read(folder, names[path]))
        except UserError as error:
            problems.append((names[path], str(error)))
    return sorted_out


def _one_of(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def short_names(paths: Iterable[AnyPath]) -> dict[AnyPath, str]:
    """The shortest end of every path that no other path ends with.

    >>> short_names([Path("/a/base/final"), Path("/a/large/final"), Path("/b/mini")])
    {Path("/a/base/final"): "base/final", Path("/a/large/final"): "large/final",
     Path("/b/mini"): "mini"}
    """
    paths = list(paths)
    longest = max((len(path.parts) for path in paths), default=0)
    names: dict[AnyPath, str] = {}
    for length in range(1, longest + 1):
        ends = {path: path.parts[-length:] for path in paths if path not in names}
        counts = [path.parts[-length:] for path in paths]
        names |= {path: "/".join(end) for path, end in ends.items() if counts.count(end) == 1}
    return {path: names[path] for path in paths}


def _kind(folder: AnyPath) -> str:
    """The file or folder in it that identifies a folder's kind, or an empty string."""
    return next((n for n in _KINDS if (folder / n).exists()), "")


def read_study(folder: AnyPath) -> Study:
    """All that study.jsonl, study.json and the MODEL_DIRs of a study hold.

    Raises:
        UserError: file, line and field of what cannot be understood.
    """
    failures: list[Failure] = []
    kept: list[Row] = []
    runs: dict[Row, reader.Run] = {}
    by_row: dict[Row, Answers] = {}
    texts = _texts(folder / STUDY_TEXTS)
    missing = {rows.place(each, f"{folder / STUDY_TEXTS}"): each for each in texts.planned}
    for where, fields in jsonl.objects(folder / STUDY_ROWS):
        missing.pop(rows.place(fields, where), None)
        if failure := rows.parse_failure(fields, where):
            failures.append(failure)
            continue
        row = rows.parse_row(fields, where)
        run, read, problem = _files(folder, row)
        if run is not None and row.dataset is None:  # of an earlier version
            row = dataclasses.replace(row, dataset=dataset(run))
        kept.append(row)
        runs |= {row: run} if run else {}
        by_row |= {row: read} if read else {}
        failures += [Failure(row.arm, row.fraction, row.seed, problem)] if problem else []
    failures += [_unfinished(folder, planned) for planned in missing.values()]
    return Study(kept, failures, texts, runs, by_row)


def _unfinished(folder: AnyPath, planned: Mapping[str, Any]) -> Failure:
    """A run that has no row: it has not begun, or it was stopped."""
    begun = (folder / planned["model_dir"]).is_dir()
    reason = "begun and not finished" if begun else "not begun"
    arm = rows.full_arm(planned)
    return Failure(arm, planned["fraction"], planned["seed"], f"{reason}; sbs study continues")


def _files(folder: AnyPath, row: Row) -> tuple[reader.Run | None, Answers | None, str]:
    """The run of a finished row, its answers, and what is wrong with its files."""
    if not row.model_dir:
        return None, None, ""
    if not (folder / row.model_dir / layout.RESULTS).is_file():
        return None, None, f"finished, but {row.model_dir}/{layout.RESULTS} is missing now"
    run = None
    try:
        run = reader.read_run(folder / row.model_dir, row.model_dir)
        read = answers.read(run)
        answers.read(run, "validation")  # a damaged file is known before the report needs it
    except UserError as error:
        return run, None, str(error)
    return run, read, "" if read else f"finished, but {row.model_dir} has no test predictions now"


def _texts(path: AnyPath) -> StudyTexts:
    if not path.exists():
        return StudyTexts()
    texts: dict[str, Any] = jsonl.parse_object(read_bytes(path).decode(), str(path))
    known = {field.name for field in dataclasses.fields(StudyTexts)}
    if unknown := texts.keys() - known:
        raise UserError(
            f"{path}: unknown field {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}"
        )
    caveats = [text for text in texts.pop("caveats", ()) if not text.startswith(_OUTDATED)]
    return StudyTexts(**texts, caveats=caveats)
