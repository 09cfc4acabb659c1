"""A user's metric functions in SeqIO's form, and what becomes of their values."""

import json

import numpy as np
import pytest

from sbs_jax.errors import UserError
from sbs_jax.metrics import extra


class Held:
    """As seqio.metrics.Scalar: a value in an attribute."""

    def __init__(self, value: object) -> None:
        self.value = value


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (1, 1),
        (0.5, 0.5),
        (-3.25, -3.25),
        (1e300, 1e300),
        (True, True),
        ("text", "text"),
        (None, None),
        (float("nan"), None),
        (float("-inf"), None),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.array([1.0, np.inf]), [1.0, None]),
        ((1, [2.0]), [1, [2.0]]),
        ({"a": {1: Held(0.25)}}, {"a": {"1": 0.25}}),
        (Held(np.float64(2)), 2.0),
        (1 + 2j, "(1+2j)"),
    ],
)
def test_any_value_is_kept_as_json(value: object, kept: object) -> None:
    def metric(targets: list[str], predictions: list[str]) -> dict[str, object]:
        return {"any name/at all": value}

    values = extra.evaluate([metric], ["a"], ["b"])
    assert values == {"any name/at all": kept}
    json.dumps(values, allow_nan=False)


def test_functions_get_gold_labels_and_answers_in_order() -> None:
    def pairs(targets: list[str], predictions: list[str]) -> dict[str, object]:
        return {"pairs": list(zip(targets, predictions, strict=True))}

    assert extra.evaluate([pairs], ["a", "b"], ["c", "d"]) == {"pairs": [["a", "c"], ["b", "d"]]}
    assert extra.evaluate([], ["a"], ["b"]) == {}


def test_functions_of_model_scores_are_skipped() -> None:
    def likelihood(targets: list[str], scores: list[float]) -> dict[str, float]:
        raise AssertionError("never called")

    assert extra.evaluate([likelihood], ["a"], ["b"]) == {}


def _raises(targets: list[str], predictions: list[str]) -> dict[str, float]:
    raise ZeroDivisionError("two\nlines")


def _ends(targets: list[str], predictions: list[str]) -> dict[str, float]:
    raise SystemExit(3)


def _number(targets: list[str], predictions: list[str]) -> float:
    return 0.5


def _named(targets: list[str], predictions: list[str]) -> dict[str, float]:
    return {"f1": 0.5}


@pytest.mark.parametrize(
    ("functions", "problem"),
    [
        ([_raises], r"^metric _raises raises ZeroDivisionError \(two lines\)"),
        ([_ends], r"^metric _ends raises SystemExit \(3\) at .*test_extra.py:\d+; it must"),
        ([_number], r"^metric _number raises TypeError"),
        ([_named, _named], r"^metric _named returns 'f1', as another metric does"),
    ],
)
def test_a_function_that_fails_is_named(functions: list, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        extra.evaluate(functions, ["a"], ["b"])


def _reversed(predictions: list[str], targets: list[str]) -> dict[str, float]:
    return {}


def _other_names(gold: list[str], said: list[str]) -> dict[str, float]:
    return {}


def _scored(targets: list[str], scores: list[float]) -> dict[str, float]:
    return {}


def _with_options(targets: list[str], predictions: list[str], beta: float = 1.0) -> dict:
    return {}


@pytest.mark.parametrize("functions", [[], [_named, _scored], (_with_options,), iter([_named])])
def test_functions_in_seqios_form_are_taken(functions: object) -> None:
    assert all(map(callable, extra.checked(functions, "mine")))


@pytest.mark.parametrize(
    ("functions", "named"),
    [
        ([_reversed], "_reversed"),
        ([_named, _other_names], "_other_names"),
        ([max], "max"),
        ([lambda targets: {}], "<lambda>"),
        (["accuracy"], "'accuracy'"),
        ([None], "None"),
        (_named, "give a list"),
        ("bleu", "give a list"),
        (None, "give a list"),
    ],
)
def test_what_seqio_would_not_call_is_refused(functions: object, named: str) -> None:
    with pytest.raises(UserError, match=rf"^mine: .*{named}") as caught:
        extra.checked(functions, "mine")
    assert "\n" not in str(caught.value)
