"""The evaluator: what the original's eval computed, without evaluating anything."""

import json
import math
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_jax.metrics.equations import MAX_DEPTH, MAX_LENGTH, equal, evaluate


def _same(value: object, recorded: object) -> bool:
    """Equality with a recorded value, type included; JSON has null for nan."""
    if recorded is None:
        return isinstance(value, float) and math.isnan(value)
    return type(value) is type(recorded) and value == recorded


@pytest.fixture(scope="module")
def recorded(shared) -> list[dict]:
    return json.loads((shared / "vectors" / "svamp_eval.json").read_text())


def test_svamp_labels_have_the_originals_value_but_for_two_tuples_and_five_ands(
    recorded: list[dict],
) -> None:
    assert len(recorded) == 2000
    differing = [r["expr"] for r in recorded if not _same(evaluate(r["expr"]), r["value"])]
    assert differing == [
        "((28 - 13) and (28 - 15))",
        "(175, 5)",
        "(53 + 17) and (14 - 10)",
        "((29/2) and (30/2))",
        "(34 + 40) and (62 - 17)",
        "(8 / 4) and (6 / 4)",
        "(14, 21)",
    ]
    assert all(math.isnan(evaluate(expression)) for expression in differing)


def _python_only(text: str) -> bool:
    """Whether a text holds what Python's eval accepts and we do not: tuples and ``and``."""
    return "and" in text or "," in text or text.replace(" ", "") == "()"


def test_corner_cases_recorded_from_the_original(shared) -> None:
    cases = json.loads((shared / "vectors" / "metrics_cases.json").read_text())["equation"]
    for case in cases:
        for side in ("pred", "label"):
            expected = None if _python_only(case[side]) else case[f"{side}_value"]
            assert _same(evaluate(case[side]), expected), case
        if not _python_only(case["pred"] + case["label"]):
            assert equal(case["pred"], case["label"]) == case["equal"], case
        assert not equal(case["pred"], case["label"]) or case["equal"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("( 84.0 / 2.0 )", 42.0),
        ("(22/11) + (34/11)", 22 / 11 + 34 / 11),
        ("2 + 3 * 4 - 6 / 2", 11.0),
        ("8 / 4 / 2", 1.0),
        ("-2 * -(3 + +4)", 14),
        ("7 - - 2", 9),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("2E-1", 0.2),
        ("0", 0),
        ("05.5", 5.5),
        (" \t(249) ", 249),
        ("9" * 400 + " / " + "9" * 400, 1.0),
    ],
)
def test_arithmetic(text: str, value: float) -> None:
    assert _same(evaluate(text), value)


def test_doubles_are_compared_exactly_as_docs_datasets_says() -> None:
    assert equal("( 3 / 10 )", "0.3") and not equal("(0.1 + 0.2)", "0.3")


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "nan", "inf", "x", "(some - 8)", "(7x = 14)", "((415 - 309)", "5)", "()", "-"),
        *("050", "5 .0", "1.2.3", "1,210", "1_000", "0x10", "5j", "٣", "3 (4)", "(3)(4)", "2 3"),
        *("2 ** 3", "7 // 2", "7 % 2", "1 if 1 else 2", "[1]", "len('a')", "5 # five", "1 or 2"),
        *("1 / 0", "0.0 / 0", "1e999", "1e308 * 10", "9" * 400 + " * 1.0", "1 / (2 - 2) * 0"),
        *("__import__('os').system('true')", "(lambda: 5)()", "5; 6", "(5\n+ 1)", "5,", "1 and 2"),
    ],
)
def test_everything_else_is_nan_and_equals_nothing(text: str) -> None:
    assert math.isnan(evaluate(text))
    assert not equal(text, text)


@pytest.mark.parametrize(
    "text",
    [
        *("0 and 5", "(3) and 4 and 5", "2 * (1 and 3) + 1", "5and 3", "(1 / 0) and 5"),
        *("14, 21", "(1 + 1, 2, )", "(5,)", "()", "(1, 2) + 1", "-(1, 2)", "(14, 21)"),
    ],
)
def test_what_only_python_evaluates_has_no_value(text: str) -> None:
    assert math.isnan(evaluate(text))
    assert not equal(text, text)


def test_length_and_depth_are_capped() -> None:
    assert (MAX_LENGTH, MAX_DEPTH) == (1000, 50)
    assert evaluate("1" * MAX_LENGTH) == int("1" * MAX_LENGTH)
    assert math.isnan(evaluate("1" * (MAX_LENGTH + 1)))
    assert evaluate("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH) == 1
    assert math.isnan(evaluate("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1)))
    side_by_side = MAX_DEPTH + 10
    assert evaluate("+".join(["(1)"] * side_by_side)) == side_by_side
    assert math.isnan(evaluate("(" * 10**6))
    assert evaluate("-" * 900 + "1") == 1


def test_nothing_is_executed(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    attack = "__import__('pathlib').Path('PWNED').write_text('..') * 0 + 8"
    assert not equal(attack, "8.0")
    assert not list(tmp_path.iterdir())


_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_NUMBERS = st.one_of(st.integers(0, 10**6), st.floats(0, 1e6, allow_subnormal=False)).map(
    lambda number: (repr(number), number)
)


def _combined(operands: st.SearchStrategy) -> st.SearchStrategy:
    """(text, value) of two bracketed operands, or of one with a sign."""

    def apply(left: tuple, symbol: str, right: tuple) -> tuple:
        try:
            value = _OPERATORS[symbol](left[1], right[1])
        except (ZeroDivisionError, OverflowError):
            value = math.nan
        if math.isinf(value):  # Python divides by 1e-308 without an error
            value = math.nan
        return f"({left[0]} {symbol} {right[0]})", value

    binary = st.builds(apply, operands, st.sampled_from("+-*/"), operands)
    return binary | operands.map(lambda operand: (f"-({operand[0]})", -operand[1]))


@given(st.recursive(_NUMBERS, _combined, max_leaves=12))
def test_agrees_with_python_arithmetic(expression: tuple[str, float]) -> None:
    text, value = expression
    assert _same(evaluate(text), None if math.isnan(value) or math.isinf(value) else value)


@given(st.text(max_size=80) | st.text("0123456789.eE+-*/(), \tandx_", max_size=80))
def test_never_raises(text: str) -> None:
    assert isinstance(evaluate(text), int | float)
