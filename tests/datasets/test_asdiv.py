"""ASDiv.xml: the original's rule for input and label, our split, and hostile XML."""

import pathlib

import pytest

from sbs_jax.datasets import asdiv
from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError

_PROBLEM = (
    '<Problem ID="made-{i}"><Body>A zorn has {i} horns. </Body><Question>How many is that?'
    "</Question><Solution-Type>x</Solution-Type><Answer>{answer}</Answer>"
    "<Formula>{i}</Formula></Problem>"
)


def _write(folder: pathlib.Path, *answers: str, head: str = "") -> pathlib.Path:
    path = folder / "ASDiv.xml"
    problems = "".join(_PROBLEM.format(i=i, answer=answer) for i, answer in enumerate(answers))
    path.write_text(f"{head}<File><ProblemSet>{problems}</ProblemSet></File>")
    return path


def test_record_of_a_problem(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, "0 (horns)", "1,5 (horns)")
    assert asdiv.read(path)[0] == Record(
        "made-0", "A zorn has 0 horns.\nHow many is that?", "0", None, None
    )


def test_split_is_a_partition_of_the_scorable_problems_in_file_order(tmp_path) -> None:
    answers = [f"{i} (horns)" for i in range(25)] + ["Mrs. Zorn", "3:30 p.m.", "1/2 (horn)"]
    records = asdiv.read(_write(tmp_path, *answers))
    files = asdiv.split(records)
    usable = [record for record in records if record.label not in ("Mrs.", "3:30")]
    assert len(usable) == 26 and [len(files["train"]), len(files["test"])] == [23, 3]
    assert sorted(files["train"] + files["test"], key=records.index) == usable
    for split in files.values():
        assert split == sorted(split, key=records.index)
    assert files == asdiv.split(records)


def test_the_real_file(shared) -> None:
    records = asdiv.read(shared / "data" / "ASDiv.xml")
    files = asdiv.split(records)
    assert len(records) == 2305 and len(asdiv.scorable(records)) == 2168
    assert {split: len(rows) for split, rows in files.items()} == {"train": 1951, "test": 217}
    assert (records[0].id, records[0].label) == ("nluds-0001", "9")


_ENTITY = '<!DOCTYPE x [<!ENTITY a "zz"><!ENTITY b SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("head", [_ENTITY, '<!DOCTYPE File SYSTEM "http://127.0.0.1:9/x.dtd">'])
def test_document_types_are_refused(tmp_path: pathlib.Path, head: str) -> None:
    with pytest.raises(UserError, match="declares a document type"):
        asdiv.read(_write(tmp_path, "1 (x)", head=head))


def test_document_types_are_refused_in_any_encoding(tmp_path: pathlib.Path) -> None:
    path = _write(tmp_path, "1 (x)", head=_ENTITY)
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(UserError, match="declares a document type"):
        asdiv.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<File><Problem", "not valid XML"),
        ("", "not valid XML"),
        ("<File></File>", "holds no problem"),
        ("<File><Problem></Problem></File>", r"problem 1 \(\): has no ID"),
        (_PROBLEM.format(i=1, answer=""), r"problem 1 \(made-1\): no text in Answer"),
        (f"<F>{_PROBLEM.format(i=1, answer='1') * 2}</F>", r"problem 2 \(made-1\): has no ID, or"),
    ],
)
def test_a_broken_file_is_named(tmp_path: pathlib.Path, content: str, message: str) -> None:
    path = tmp_path / "ASDiv.xml"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        asdiv.read(path)


def test_no_such_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match=r"ASDiv\.xml: cannot be read \(No such file"):
        asdiv.read(tmp_path / "ASDiv.xml")
