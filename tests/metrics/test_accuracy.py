"""Counts, the Wilson interval, the two metrics, the paired test."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sbs_jax.metrics.accuracy import Accuracy, accuracy, is_correct, majority_baseline, mcnemar


def test_prints_value_interval_and_counts() -> None:
    assert str(Accuracy(943, 1221)) == "0.7723 [0.7480, 0.7950] (943/1221)"


def test_json_form() -> None:
    form = Accuracy(148, 200).to_json()
    assert form["correct"] == 148 and form["n"] == 200 and form["accuracy"] == 0.74
    assert form["ci95"] == pytest.approx([0.6751, 0.7959], abs=5e-5)
    json.dumps(form, allow_nan=False)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_interval_is_wilson_of_scipy(counts: tuple[int, int]) -> None:
    low, high = Accuracy(*counts).ci95
    reference = stats.binomtest(*counts).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-12)
    assert 0 <= low <= Accuracy(*counts).value <= high <= 1


def test_of_nothing() -> None:
    nothing = Accuracy(0, 0)
    assert math.isnan(nothing.value) and nothing.ci95 == (0.0, 1.0)
    assert nothing.to_json()["accuracy"] is None
    json.dumps(nothing.to_json(), allow_nan=False)


def test_sums_counts() -> None:
    assert Accuracy(3, 4) + Accuracy(1, 6) == Accuracy(4, 10)


@pytest.mark.parametrize("counts", [(-1, 3), (4, 3)])
def test_impossible_counts_are_refused(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="impossible"):
        Accuracy(*counts)


def test_text_metric_on_the_recorded_cases(shared) -> None:
    case = json.loads((shared / "vectors" / "metrics_cases.json").read_text())["text"]
    assert accuracy("text", case["preds"], case["labels"]).value == case["accuracy"]


def test_equation_metric_is_the_strict_one() -> None:
    assert is_correct("equation", "(8 - 3)", "( 8.0 - 3.0 )")
    assert not is_correct("equation", "(53 + 17) and (14 - 10)", "4.0")
    assert not is_correct("text", "5", "5.0")


def test_pairs_must_match_and_metrics_be_known() -> None:
    with pytest.raises(ValueError):
        accuracy("text", ["a"], ["a", "b"])


def test_majority_baseline() -> None:
    assert majority_baseline(["no", "yes", "yes"], ["yes", "no", "no"]) == Accuracy(1, 3)
    assert majority_baseline([], ["yes"]) == Accuracy(0, 1)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int, both: int) -> None:
    a = [True] * only_a + [False] * only_b + [True] * both
    b = [False] * only_a + [True] * only_b + [True] * both
    n = only_a + only_b
    expected = stats.binomtest(only_a, n, 0.5).pvalue if n else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_of_many_and_of_unequal_lengths() -> None:
    assert mcnemar([True] * 6000 + [False] * 4000, [False] * 6000 + [True] * 4000) < 1e-80
    with pytest.raises(ValueError):
        mcnemar([True], [])
