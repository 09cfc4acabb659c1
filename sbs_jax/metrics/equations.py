"""The value of an arithmetic answer such as ``( 84.0 / 2.0 )``, computed without running any code.

Grammar (lowest precedence first; ``and`` and tuples only with ``python_compat``)::

    tuple    = and {"," and} [","]
    and      = sum {"and" sum}
    sum      = product {("+" | "-") product}
    product  = signed {("*" | "/") signed}
    signed   = {"+" | "-"} (number | "(" tuple ")")

A small parser of our own instead of ``ast.parse``: model output must neither reach Python's
compiler (which warns, and accepts more in every release) nor its recursion limit.
"""

import dataclasses
import math
import operator
import re

MAX_LENGTH = 1000  # characters; longer text is nan
MAX_DEPTH = 50  # nested brackets; deeper text is nan

Value = int | float | tuple

_TOKEN = re.compile(
    r"[ \t]*(?:(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<symbol>and\b|[-+*/(),]))"
)
_INTEGER = re.compile(r"0+|[1-9][0-9]*")
_SPACE = " \t\r\n\f"
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def evaluate(text: str, python_compat: bool = False) -> Value:
    """Computes the value of `text` as Python would, or nan where there is none.

    Ints and decimals (``.5``, ``5.``, ``1e3``), ``+ - * /``, unary signs and brackets, with exact
    ints and doubles and no rounding. Everything else is nan: names, calls, ``**``, ``050``,
    ``5 .0``, thousands commas, unbalanced brackets, division by zero, overflow, a text too long or
    too deep.

    `python_compat` adds the two other forms that the released teacher's answers contain and that
    the original's ``eval`` (its metrics.py) accepted: ``a and b`` (b, unless a is zero) and tuples
    such as ``(14, 21)``, returned as a tuple, which `equal` never accepts.

    Never raises and never executes anything.
    """
    tokens = _tokenize(text)
    if tokens is None:
        return math.nan
    try:
        return _Parser(tokens, python_compat).whole()
    except _NotAnEquation:
        return math.nan


def equal(prediction: str, gold: str, python_compat: bool = False) -> bool:
    """Whether both texts have a value and it is the same: ``5`` equals ``5.0``, nan nothing."""
    values = [evaluate(text, python_compat) for text in (prediction, gold)]
    if any(isinstance(value, tuple) for value in values):
        return False
    return values[0] == values[1]


class _NotAnEquation(Exception):
    pass


@dataclasses.dataclass(frozen=True, slots=True)
class _Number:
    text: str


def _tokenize(text: str) -> list[_Number | str] | None:
    """Splits `text`; None where it is too long or holds a character of no token."""
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


def _number(text: str) -> int | float:
    if not text.isdigit():
        return _finite(float(text))
    if _INTEGER.fullmatch(text) is None:  # 050: no number to Python, so none to the original
        raise _NotAnEquation
    return int(text)


def _finite(value: int | float) -> int | float:
    return math.nan if isinstance(value, float) and math.isinf(value) else value


def _apply(symbol: str, left: Value, right: Value) -> int | float:
    """One operation; what has no value is nan, which every further operation keeps."""
    if isinstance(left, tuple) or isinstance(right, tuple):
        return math.nan
    try:
        return _finite(_OPERATORS[symbol](left, right))
    except ArithmeticError:
        return math.nan


class _Parser:
    """Recursive descent over the grammar above, computing as it reads."""

    def __init__(self, tokens: list[_Number | str], python_compat: bool) -> None:
        self._tokens = tokens
        self._next = 0
        self._compat = python_compat
        self._depth = 0

    def whole(self) -> Value:
        value = self._tuple(closing=None)
        if self._peek() is not None:
            raise _NotAnEquation
        return value

    def _tuple(self, closing: str | None) -> Value:
        """One value, or with `python_compat` several between commas; stops at `closing`."""
        items, comma = [], False
        while not items or comma:
            if self._compat and self._peek() == closing and (items or closing):
                break  # "()", or a comma after the last item
            items.append(self._conjunction())
            comma = self._compat and self._accept(",")
        return items[0] if len(items) == 1 and not comma else tuple(items)

    def _conjunction(self) -> Value:
        value = self._sum()
        while self._compat and self._accept("and"):
            operand = self._sum()
            # Python keeps the first operand that is zero; one without a value has failed already.
            if value and value == value:
                value = operand
        return value

    def _sum(self) -> Value:
        value = self._product()
        while self._peek() in ("+", "-"):
            value = _apply(self._take(), value, self._product())
        return value

    def _product(self) -> Value:
        value = self._signed()
        while self._peek() in ("*", "/"):
            value = _apply(self._take(), value, self._signed())
        return value

    def _signed(self) -> Value:
        negations, signed = 0, False
        while self._peek() in ("+", "-"):
            negations += self._take() == "-"
            signed = True
        value = self._primary()
        if signed and isinstance(value, tuple):
            return math.nan
        return -value if negations % 2 else value

    def _primary(self) -> Value:
        token = self._take()
        if isinstance(token, _Number):
            return _number(token.text)
        if token != "(" or self._depth == MAX_DEPTH:
            raise _NotAnEquation
        self._depth += 1
        value = self._tuple(closing=")")
        self._depth -= 1
        if self._take() != ")":
            raise _NotAnEquation
        return value

    def _peek(self) -> _Number | str | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self) -> _Number | str | None:
        token = self._peek()
        self._next += 1
        return token

    def _accept(self, symbol: str) -> bool:
        found = self._peek() == symbol
        self._next += found
        return found
