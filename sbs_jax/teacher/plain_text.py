"""Turns LaTeX, typography and number words in an answer into plain text that can be compared."""

import re

_WRAPPER = re.compile(
    r"\\(?:boxed|fbox|mbox|text\w*|math\w+|emph|underline|operatorname)\s*\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_SIGNS = {
    **{"×": "*", "÷": "/", "−": "-", "–": "-", "·": "*", "⋅": "*", "∗": "*"},
    **{"\\times": "*", "\\div": "/", "\\cdot": "*", "\\left": "", "\\right": ""},
    **{"\\$": "$", "\\%": "%"},
    **{"’": "'", "，": ",", "＝": "="},
}
_SIGN = re.compile("|".join(map(re.escape, sorted(_SIGNS, key=len, reverse=True))))
# Separators of groups of three digits.
_GROUP = r"(?:,|\{,\}|\\[,;:! ]|[\u00a0\u2007\u2009\u202f'’_])"
_GROUPED = re.compile(rf"(?<![\d.])[1-9]\d{{0,2}}(?:{_GROUP}\d{{3}})+(?!\d)(?!{_GROUP}\d)")
_DELIMITER = re.compile(r"\\[()\[\]]")
_LETTER = re.compile(r"(?<!\w)(?:[(\[{（［【]|<<)+\s*([A-Za-z0-9])[.:]?\s*(?:[)\]}）］】]|>>)+")
_TAG = re.compile(r"</?[A-Za-z][\w-]*>|\[/?[A-Z]{2,}\]")
_OPTION = re.compile(
    r"\b(option|choice|letter)\s+([A-Z]|[b-z]|a(?=\s*(?:[.,;:)]|$)))(?!\w)", re.MULTILINE
)
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad\b|~")
_EMPHASIS = re.compile(r"(?<!\d)\*{2,3}|\*{2,3}(?!\d)|`")
_CURRENCY = re.compile(r"(?:US)?[$€£¥₹]")
_OPERATORS = {
    "+": r"plus",
    "-": r"minus",
    "*": r"times|multiplied by|(?<!\b0)[xX]",
    "/": r"divided by|over",
}
_OPERATOR = [
    (re.compile(rf"(?<=[\d)])\s*(?<!\w\w)(?:{words})\s*(?=[\d(])"), f" {sign} ")
    for sign, words in _OPERATORS.items()
]


def unwrapped(text: str) -> str:
    r"""Without LaTeX's wrappers: ``$\boxed{\text{(b)}}$`` -> ``$(b)$``."""
    text = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), text) if "{,}" in text else text
    if "\\" not in text:
        return text
    previous = ""
    while previous != text:
        previous = text
        text = _FRACTION.sub(r"((\1) / (\2))", _WRAPPER.sub(r"\1", text))
    return _DELIMITER.sub(" ", text)


def lettered(text: str) -> str:
    """The letters of choices in plain brackets: ``[[A]]``, ``（A）``, ``option A`` -> ``(A)``."""
    return _OPTION.sub(r"\1 (\2)", _TAG.sub(" ", _LETTER.sub(r"(\1)", text)))


def arithmetic(text: str) -> str:
    r"""An expression in plain signs: ``$9{,}500 \times 2$`` -> ``9500 * 2``.

    Groups of three digits lose what separates them; other commas stay, since ``1.200,50`` means
    another number to another reader.
    """
    text = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), unwrapped(text))
    text = _SIGN.sub(lambda match: _SIGNS[match[0]], _SPACING.sub(" ", text))
    text = _CURRENCY.sub("", _EMPHASIS.sub("", text))
    for pattern, sign in _OPERATOR:
        text = pattern.sub(sign, text)
    return text
