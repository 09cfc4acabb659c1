"""What a run cut off, from its results.json."""

import pytest

from sbs_jax.runs import truncation


def _results(inputs: int, targets: int, answers: int, split: str = "test") -> dict:
    counts = {"examples": 1200, "inputs": inputs, "targets": targets}
    return {
        "results": [{"split": "test", "truncated_answers": answers}],
        "truncated": {split: {"label": counts}},
    }


@pytest.mark.parametrize(
    ("split", "numbers", "words"),
    [
        ("train", (2, 0, 0), "train label: 2 inputs truncated, of 1,200"),
        ("train", (0, 1000, 0), "train label: 1,000 targets truncated, of 1,200"),
        ("train", (1, 1, 9), "train label: 1 inputs truncated, 1 targets truncated, of 1,200"),
        ("test", (0, 0, 3), "test label: 3 answers truncated, of 1,200"),
        ("test", (0, 4, 0), "test label: 4 gold labels too long to be decoded, of 1,200"),
        ("validation", (5, 0, 3), "validation label: 5 inputs truncated, of 1,200"),
    ],
)
def test_what_was_cut_off_is_counted(split: str, numbers: tuple, words: str) -> None:
    assert [str(cut) for cut in truncation.cuts(_results(*numbers, split))] == [words]


def test_nothing_cut_off_is_no_line() -> None:
    assert list(truncation.cuts(_results(0, 0, 0))) == []
    assert list(truncation.cuts(_results(0, 0, 7, "train"))) == []


def test_an_older_results_file_counts_nothing() -> None:
    assert list(truncation.cuts({"results": [{"split": "test"}]})) == []
