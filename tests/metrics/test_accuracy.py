"""Counts, the Wilson interval, the two metrics, and metrics that are functions."""

import fractions
import functools
import json
import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sbs_jax.errors import UserError
from sbs_jax.metrics.accuracy import (
    Accuracy,
    accuracy,
    is_correct,
    majority_baseline,
    metric_name,
    score,
)


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
    with pytest.raises(ValueError, match="longer"):
        accuracy("text", ["a"], ["a", "b"])


def test_majority_baseline() -> None:
    assert majority_baseline(["no", "yes", "yes"], ["yes", "no", "no"]) == Accuracy(1, 3)
    assert majority_baseline([], ["yes"]) == Accuracy(0, 1)


# --- metrics that are functions -------------------------------------------------------------------


def _returning(value: object) -> Callable[[str, str], object]:
    def mine(prediction: str, gold: str) -> object:
        return value

    return mine


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (False, False),
        (0, 0.0),
        (1, 1.0),
        (0.33, 0.33),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.int64(1), 1.0),
        (np.array(0.25), 0.25),
        (fractions.Fraction(1, 4), 0.25),
        (1 + 2e-16, 1.0),
        (np.float32(1.0000001), 1.0),
    ],
)
def test_a_metric_gives_a_bool_or_a_number(value: object, expected: object) -> None:
    result = score(_returning(value), "a", "b")
    assert result == expected and type(result) is type(expected)
    assert is_correct(_returning(value), "a", "b") is (expected == 1)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "0.0",
        "yes",
        float("nan"),
        np.nan,
        math.inf,
        -0.1,
        1.0001,
        75,
        10**400,
        2,
        {"f1": 0.5},
        [1],
        np.array([1.0]),
        object(),
        1j,
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_other_value_is_refused_with_metric_and_record(value: object) -> None:
    with pytest.raises(UserError, match=r"^mine/test record 7: metric mine returns .*'a'.*'b'"):
        score(_returning(value), "a", "b", "mine/test record 7")


def test_a_metric_that_raises_is_one_line() -> None:
    def number(prediction: str, gold: str) -> bool:
        return float(prediction) == float(gold)

    assert score(number, "5", "5.0")
    with pytest.raises(UserError, match=r"metric number raises ValueError \(could not") as caught:
        score(number, "many\nlines", "5")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [0, 1, None, "enough"])
def test_a_metric_that_ends_the_program_is_one_line(code: object) -> None:
    def metric(prediction: str, gold: str) -> bool:
        sys.exit(code)

    with pytest.raises(UserError, match=r"metric metric raises SystemExit .* at .*test_acc"):
        score(metric, "a", "b")


def test_an_interrupt_within_a_metric_is_an_interrupt() -> None:
    def metric(prediction: str, gold: str) -> bool:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(metric, "a", "b")


def test_a_metric_without_a_name_goes_by_its_type() -> None:
    metric = functools.partial(lambda prediction, gold, least: 2, least=1)
    assert metric_name(metric) == "partial"
    with pytest.raises(UserError, match="metric partial returns 2"):
        score(metric, "a", "b")


def test_numbers_are_averaged() -> None:
    found = Accuracy.of([0.25, 0.5, 1.0, True])
    assert (found.value, found.n) == (0.6875, 4)
    assert str(found).startswith("0.6875 [") and str(found).endswith("(mean of 4)")
    assert Accuracy.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.to_json()["squares"] == 0.0625 + 0.25 + 2


@pytest.mark.parametrize("scores", [[True, False, True], [1.0, 0.0, 1.0]])
def test_right_and_wrong_stay_counts(scores: list) -> None:
    assert Accuracy.of(scores) == Accuracy(2, 3)
    assert "squares" not in Accuracy.of(scores).to_json()
    assert Accuracy.from_json(Accuracy(2, 3).to_json()) == Accuracy(2, 3)


@given(st.lists(st.booleans(), min_size=1), st.lists(st.floats(0, 1), min_size=1))
def test_sums_of_counts_and_numbers_are_those_of_all(first: list, second: list) -> None:
    total, both = Accuracy.of(first) + Accuracy.of(second), Accuracy.of([*first, *second])
    assert total.n == both.n
    assert total.correct == pytest.approx(both.correct)
    assert total.ci95 == pytest.approx(both.ci95, abs=1e-6)


@given(st.lists(st.booleans(), min_size=1))
def test_the_interval_of_numbers_is_that_of_counts_for_right_and_wrong(scores: list) -> None:
    as_numbers = Accuracy(sum(scores), len(scores), squares=float(sum(scores)))
    assert as_numbers.ci95 == pytest.approx(Accuracy.of(scores).ci95, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50))
def test_the_interval_of_numbers_holds_their_mean(scores: list) -> None:
    found = Accuracy.of(scores)
    low, high = found.ci95
    assert 0 <= low <= found.value <= high <= 1
    assert high > low


@pytest.mark.parametrize("n", [10, 40, 400])
@pytest.mark.parametrize("shape", [(2, 3), (0.3, 0.6), (8, 1)])
def test_the_interval_of_numbers_covers_and_narrows(n: int, shape: tuple[float, float]) -> None:
    """Of 1,000 samples about 950 intervals hold the mean; for many answers as wide as normal."""
    drawn = np.random.default_rng(n).beta(*shape, (1000, n))
    intervals = np.array([Accuracy.of(sample).ci95 for sample in drawn.tolist()])
    mean = shape[0] / sum(shape)
    covered = np.mean((intervals[:, 0] <= mean) & (mean <= intervals[:, 1]))
    assert covered >= 0.93
    if n == 400:
        assert covered <= 0.97
        normal = 2 * 1.96 * stats.beta(*shape).std() / math.sqrt(n)
        assert np.mean(intervals[:, 1] - intervals[:, 0]) == pytest.approx(normal, rel=0.02)
