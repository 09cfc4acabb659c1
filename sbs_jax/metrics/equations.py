"""The value of an arithmetic answer such as ``( 84.0 / 2.0 )``, computed without running any code.

Grammar, lowest precedence first::

    sum      = product {("+" | "-") product}
    product  = signed {("*" | "/") signed}
    signed   = {"+" | "-"} (number | "(" sum ")")

A parser of our own instead of ``ast.parse``: model output must neither reach Python's compiler
(which warns, and accepts more in every release) nor its recursion limit.
"""

import dataclasses
import math
import operator
import re

MAX_LENGTH = 1000  # characters; longer text is nan
MAX_DEPTH = 50  # nested brackets; deeper text is nan

Value = int | float

_TOKEN = re.compile(
    r"[ \t]*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<symbol>[-+*/()]))"
)
_INTEGER = re.compile(r"0+|[1-9][0-9]*")
_SPACE = " \t\r\n\f"
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def evaluate(text: str) -> Value:
    """Computes the value of `text` as Python would; nan for a text without one.

    Ints and decimals (``.5``, ``5.``, ``1e3``), ``+ - * /``, unary signs and brackets, with exact
    ints and doubles and no rounding. Everything else is nan: names, calls, ``**``, ``050``,
    ``5 .0``, thousands commas, unbalanced brackets, division by zero, overflow, a text too long or
    too deep. So are ``a and b`` and tuples, which the original's ``eval`` (its metrics.py)
    accepted: docs/fidelity.md counts them.

    Never raises and never executes anything.
    """
    tokens = _tokenize(text)
    if tokens is None:
        return math.nan
    try:
        return _Parser(tokens).whole()
    except _NotAnEquation:
        return math.nan


def equal(prediction: str, gold: str) -> bool:
    """Whether both texts have a value and it is the same: ``5`` equals ``5.0``, nan nothing."""
    return evaluate(prediction) == evaluate(gold)


class _NotAnEquation(Exception):
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class _Number:
    text: str


def _tokenize(text: str) -> list[_Number | str] | None:
    """Splits `text`; None for one that is too long or holds a character of no token."""
    text = text.strip(_SPACE)
    if len(text) > MAX_LENGTH:
        return None
    tokens: list[_Number | str] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        number = match["number"]
        tokens.append(match["symbol"] if number is None else _Number(number))
        position = match.end()
    return tokens


def _number(text: str) -> Value:
    if not text.isdigit():
        return _finite(float(text))
    if _INTEGER.fullmatch(text) is None:  # 050: no number to Python, so none to the original
        raise _NotAnEquation
    return int(text)


def _finite(value: Value) -> Value:
    return math.nan if isinstance(value, float) and math.isinf(value) else value


def _apply(symbol: str, left: Value, right: Value) -> Value:
    """One operation; what has no value is nan, which every further operation keeps."""
    try:
        return _finite(_OPERATORS[symbol](left, right))
    except ArithmeticError:
        return math.nan


class _Parser:
    """Recursive descent over the grammar above, computing as it reads."""

    def __init__(self, tokens: list[_Number | str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def whole(self) -> Value:
        value = self._sum()
        if self._peek() is not None:
            raise _NotAnEquation
        return value

    def _sum(self) -> Value:
        value = self._product()
        while symbol := self._take_one_of("+-"):
            value = _apply(symbol, value, self._product())
        return value

    def _product(self) -> Value:
        value = self._signed()
        while symbol := self._take_one_of("*/"):
            value = _apply(symbol, value, self._signed())
        return value

    def _signed(self) -> Value:
        negative = False
        while symbol := self._take_one_of("+-"):
            negative ^= symbol == "-"
        value = self._primary()
        return -value if negative else value

    def _primary(self) -> Value:
        token = self._peek()
        self._next += 1
        if isinstance(token, _Number):
            return _number(token.text)
        if token != "(" or self._depth == MAX_DEPTH:
            raise _NotAnEquation
        self._depth += 1
        value = self._sum()
        self._depth -= 1
        if not self._take_one_of(")"):
            raise _NotAnEquation
        return value

    def _peek(self) -> _Number | str | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take_one_of(self, symbols: str) -> str | None:
        """The next token, if it is one of these."""
        token = self._peek()
        if not isinstance(token, str) or token not in symbols:
            return None
        self._next += 1
        return token
