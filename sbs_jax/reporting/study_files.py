"""What a study leaves in its folder, read back for reports."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sbs_jax.errors import UserError
from sbs_jax.reporting import statistics
from sbs_jax.reporting.statistics import Row
from sbs_jax.runs import layout, reader
from sbs_jax.utils import jsonl

STUDY_ROWS, STUDY_TEXTS = "study.jsonl", "study.json"
_KINDS = (STUDY_ROWS, layout.RESULTS, layout.METRICS)
# A mixture's method, where the arm of a study has another name.
_ARM_OF_METHOD = {"finetune": "standard"}


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


def arm(run: reader.Run) -> str:
    """What a run trained, e.g. step_by_step; the run's name where that is unknown."""
    mixture = run.results["mixture"] if run.results else ""
    methods = [m for m in (*statistics.ARM_NAMES, *_ARM_OF_METHOD) if mixture.endswith(f"_{m}")]
    method = max(methods, key=len, default=run.name)
    return _ARM_OF_METHOD.get(method, method)


def find(sources: Sequence[Path]) -> tuple[list[Path], list[reader.Run]]:
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
                f"--runs {source}: neither it nor a folder in it holds {', '.join(_KINDS)}; "
                f"give what sbs train, sbs study or sbs demo has written"
            )
        studies += [folder for folder in found if _kind(folder) == STUDY_ROWS]
        runs += [reader.read_run(folder) for folder in found if _kind(folder) != STUDY_ROWS]
    return studies, runs


def _kind(folder: Path) -> str:
    """The file that tells what a folder is, or nothing."""
    return next((n for n in _KINDS if (folder / n).is_file()), "")


def read_study(folder: Path) -> tuple[list[Row], StudyTexts]:
    """The rows of study.jsonl, and the texts of study.json if it is there.

    Raises:
        UserError: file, line and field of what cannot be understood.
    """
    rows = [statistics.parse_row(row, where) for where, row in jsonl.objects(folder / STUDY_ROWS)]
    path = folder / STUDY_TEXTS
    text = path.read_text(encoding="utf-8") if path.exists() else "{}"
    texts = jsonl.parse_object(text, str(path))
    known = {field.name for field in dataclasses.fields(StudyTexts)}
    if unknown := texts.keys() - known:
        raise UserError(
            f"{path}: unknown field {sorted(unknown)[0]!r}; known: {', '.join(sorted(known))}"
        )
    return rows, StudyTexts(**texts)
