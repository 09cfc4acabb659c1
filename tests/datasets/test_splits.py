"""Rows of the original's splits, recorded from Hugging Face datasets 2.7.1."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_jax.datasets.splits import (
    first_rows,
    question_numbers,
    rows_of,
    subsample_rows,
    train_test_rows,
)
from sbs_jax.errors import UserError

_ROWS = {"cqa": 9741, "svamp": 800}


def test_all_twenty_recorded_splits(shared) -> None:
    recorded = np.load(shared / "vectors" / "splits.npz")
    names = sorted({key.rpartition("/")[0] for key in recorded if "/sub" in key})
    assert len(names) == 20
    for name in names:
        dataset, fraction, run = name.split("/")
        kept = subsample_rows(
            _ROWS[dataset], float(fraction.removeprefix("sub")), int(run.removeprefix("run"))
        )
        train, validation = train_test_rows(len(kept), 0.1, 0)
        np.testing.assert_array_equal(kept[train], recorded[f"{name}/train"], name)
        np.testing.assert_array_equal(kept[validation], recorded[f"{name}/valid"], name)


def test_nli_subsamples(shared) -> None:
    recorded = json.loads((shared / "vectors" / "splits.json").read_text())
    for run in range(3):
        case = recorded[f"anli1/sub0.25/run{run}"]
        rows = subsample_rows(16946, 0.25, run)
        assert len(rows) == case["n_train"]
        assert rows[:10].tolist() == case["first10_train_rows"]


def test_first_rows_of_svamp() -> None:
    # facts of the released split, so that the rule is held without the reference data
    train, validation = train_test_rows(800, 0.1, 0)
    assert train[:5].tolist() == [792, 273, 165, 521, 790]
    assert (len(train), len(validation)) == (720, 80)


def test_the_sides_are_a_partition_and_the_test_side_rounds_up() -> None:
    train, test = train_test_rows(11, 0.25, 7)
    assert len(test) == 3
    assert sorted([*train, *test]) == list(range(11))


def test_all_rows_stay_in_order() -> None:
    assert subsample_rows(5, 1.0, 3).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fraction", [0.125, 0.25, 0.5, 0.8, 1.0])
def test_first_rows_are_as_many_as_a_subsample(fraction: float) -> None:
    rows = first_rows(800, fraction, 5)
    assert rows.tolist() == list(range(len(subsample_rows(800, fraction, 5))))


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
@pytest.mark.parametrize("rule", [subsample_rows, first_rows])
def test_a_fraction_outside_is_refused(rule, fraction: float) -> None:
    with pytest.raises(UserError, match=f"fraction={fraction}"):
        rule(10, fraction, 0)


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(UserError, match="1 rows cannot be split"):
        train_test_rows(1, 0.1, 0)
    with pytest.raises(UserError, match="test_size"):
        train_test_rows(10, 1.0, 0)
    with pytest.raises(UserError, match="keeps none"):
        first_rows(3, 0.01, 0)
    with pytest.raises(UserError, match="cannot be split"):
        subsample_rows(3, 0.01, 0)


# --- rows that belong together --------------------------------------------------------------------


def test_questions_are_numbered_by_their_first_row() -> None:
    assert question_numbers(["b", "a", "b", "c", "a"]).tolist() == [0, 1, 0, 2, 1]


@pytest.mark.parametrize(
    "other",
    [
        "is it odd ?",
        "is  it odd ?",
        "is it odd ? ",
        "\nis it odd ?",
        "is it\u00a0odd ?",
        "\uff49s it odd ?",
    ],
)
def test_inputs_that_a_vocabulary_reads_alike_are_one_question(other: str) -> None:
    assert question_numbers(["is it odd ?", "x", other]).tolist() == [0, 1, 0]


@pytest.mark.parametrize("other", ["Is it odd ?", "is it odd", "is it odd?", "is it ?", ""])
def test_other_inputs_are_other_questions(other: str) -> None:
    assert question_numbers(["is it odd ?", other]).tolist() == [0, 1]


def test_rows_of_questions() -> None:
    question_of = np.array([0, 1, 0, 2, 1])
    assert rows_of(question_of, np.array([2, 0])).tolist() == [3, 0, 2]
    assert rows_of(np.arange(4), np.array([3, 1])).tolist() == [3, 1]


@given(st.lists(st.integers(0, 8), min_size=1), st.randoms())
def test_each_question_brings_all_of_its_rows(names: list[int], random: object) -> None:
    question_of = question_numbers(map(str, names))
    kept = [q for q in range(question_of.max() + 1) if random.random() < 0.5]
    rows = rows_of(question_of, np.array(kept or [0])).tolist()
    wanted = {names[names.index(n)] for n in names if question_of[names.index(n)] in (kept or [0])}
    assert sorted(rows) == [row for row, name in enumerate(names) if name in wanted]
