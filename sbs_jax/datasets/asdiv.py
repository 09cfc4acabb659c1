"""ASDiv (Miao et al. 2020): 2,305 English word problems, from its XML file.

Source: https://github.com/chaochun/nlu-asdiv-dataset, dataset/ASDiv.xml; the user brings the file.
No teacher outputs were ever released for it.
"""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from xml.parsers import expat

from sbs_jax.datasets import splits
from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.metrics import equations
from sbs_jax.metrics.accuracy import Metric

METRIC: Metric = "equation"
CARVE_VALIDATION = 0.1
_TEST_SIZE = 0.1
_MAX_BYTES = 2**26  # the file has 947,401


def read(path: str | os.PathLike[str]) -> list[Record]:
    """Reads all problems, in file order, with the ids of the file ("nluds-0001").

    The original's rule (its data_utils.py): input is body, newline, question; the label is the
    answer's first word, so "9 (apples)" is "9". Rationale and llm_label are None.

    Raises UserError for a file that cannot be read, is not XML, declares a document type or
    entities (which could read other files or expand without end), repeats an id, or lacks a field.
    """
    root = _parse(path)
    records: dict[str, Record] = {}
    for number, problem in enumerate(root.iter("Problem"), start=1):
        name = problem.get("ID") or ""
        where = f"{path}: problem {number} ({name})"
        if not name or name in records:
            raise UserError(f"{where}: has no ID, or that of another problem; repair the file")
        body, question, answer = (_field(problem, f, where) for f in ("Body", "Question", "Answer"))
        records[name] = Record(name, f"{body}\n{question}", answer.split()[0])
    if not records:
        raise UserError(f"{path}: holds no problem; expected ASDiv.xml")
    return list(records.values())


def scorable(records: list[Record]) -> list[Record]:
    """The records whose label is a number.

    137 of the 2,305 answers are a name, a time, a ratio or several numbers, which equation
    accuracy could never count as right.
    """
    return [r for r in records if equations.equal(r.label, r.label)]


def split(records: list[Record]) -> dict[str, list[Record]]:
    """The files of the dataset: ``{"train": ..., "test": ...}``, each in file order.

    ASDiv has no official split: test is a tenth of the scorable problems, drawn by
    `splits.train_test_rows` with seed 0, and train is the rest of them (1951 and 217).
    """
    usable = scorable(records)
    train, test = splits.train_test_rows(len(usable), _TEST_SIZE, 0)
    return {
        "train": [usable[row] for row in sorted(train)],
        "test": [usable[row] for row in sorted(test)],
    }


def _parse(path: str | os.PathLike[str]) -> ElementTree.Element:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if len(content) > _MAX_BYTES:
        raise UserError(f"{path}: larger than the {_MAX_BYTES} bytes accepted; expected ASDiv.xml")
    # ElementTree has no switch for this, so a first pass over the text looks for a declaration.
    checker = expat.ParserCreate()
    checker.StartDoctypeDeclHandler = lambda *_: _refuse_doctype(path)
    try:
        checker.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError) as error:
        raise UserError(f"{path}: not valid XML ({error}); expected ASDiv.xml") from None


def _refuse_doctype(path: str | os.PathLike[str]) -> None:
    raise UserError(f"{path}: declares a document type, which ASDiv.xml does not; not read")


def _field(problem: ElementTree.Element, field: str, where: str) -> str:
    text = (problem.findtext(field) or "").strip()
    if not text:
        raise UserError(f"{where}: no text in {field}; repair the file")
    return text
