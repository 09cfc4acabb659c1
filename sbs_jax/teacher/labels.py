"""What a label may be, how a prompt shows it, and which label a teacher's wording means.

Four kinds of label:

* ``labels``: one of a fixed list (entailment, neutral, contradiction);
* ``choices``: the text of one of the input's own lines ``(a) bank``, shown with its letter;
* ``expression``: arithmetic in brackets, ``(3 + 4)``, that has a value;
* ``text``: anything.
"""

import re
from collections.abc import Sequence
from typing import Literal

from sbs_jax.metrics import accuracy

Kind = Literal["labels", "choices", "expression", "text"]

_CHOICE = re.compile(r"^\((\w)\) (.*\S)\s*$", re.MULTILINE)
_LETTER = re.compile(r"\((\w)\)|(\w)(?:[).:]|$)")
_DECORATION = " \t\r\n\"'`*_$.,;:!"
_ARITHMETIC = re.compile(r"[-.\d(][\d .+\-*/()]*(?!\w)")
_EITHER = re.compile(r"(?:either|both|one of|any of|none of)\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_TYPOGRAPHY = {"×": "*", "÷": "/", "−": "-", "–": "-", "\\times": "*", "\\div": "/", "\\cdot": "*"}


def choices(text: str) -> dict[str, str]:
    """Letter -> text of the lines ``(a) bank`` of an input, in order."""
    return dict(_CHOICE.findall(text))


def shown(kind: Kind, label: str, text: str) -> str:
    """How a prompt writes a label; empty where it is none of the choices of the input `text`."""
    if kind != "choices":
        return label
    for letter, choice in choices(text).items():
        if choice == label:
            return f"({letter}) {choice}"
    return ""


def allowed(kind: Kind, labels: Sequence[str], text: str) -> list[str]:
    """The labels possible for the input `text`; empty where they cannot be listed."""
    return list(choices(text).values()) if kind == "choices" else list(labels)


def meant(kind: Kind, labels: Sequence[str], text: str, wording: str) -> str | None:
    """The label a wording stands for, in the dataset's own spelling, or None.

    ``Neutral.`` is neutral, ``(d)`` and ``d) bank`` are the choice d, ``3+4`` is ``(3+4)``; what
    follows the label on its line, or on later lines, does not matter.
    """
    line = _first_line(wording)
    if kind == "expression":
        return _expression(line)
    if kind == "text":
        return line or None
    options = allowed(kind, labels, text)
    return _named(options, line) or (_lettered(choices(text), line) if kind == "choices" else None)


def hedges(kind: Kind, labels: Sequence[str], text: str, wording: str) -> bool:
    """Whether a wording offers one answer or another: ``either (a) pond or (b) lake``."""
    line = _first_line(wording).casefold()
    if kind == "expression":
        return bool(re.search(r"\b(?:and|or)\b", line))
    options = [option.casefold() for option in allowed(kind, labels, text)]
    if not options or _EITHER.match(line):
        return bool(options)
    first = _named(options, line)
    rest = line[line.find(first) + len(first) :] if first else line
    other = "|".join([r"\(\w\)", *map(re.escape, options)])
    return bool(re.match(rf"\W*(?:or|and)\W+(?:{other})", rest))


def last_meant(kind: Kind, labels: Sequence[str], text: str, completion: str) -> str | None:
    """The label named last in free text, or None; free ``text`` labels cannot be found so."""
    if kind == "text":
        return None
    if kind == "expression":
        found = (_expression(match[0]) for match in _ARITHMETIC.finditer(_plain(completion)))
        bracketed = [label for label in found if label and any(s in label for s in "+-*/")]
        return bracketed[-1] if bracketed else None
    options = {option.casefold(): option for option in allowed(kind, labels, text)}
    if kind == "choices":
        options |= {f"({letter})": choice for letter, choice in choices(text).items()}
    folded = completion.casefold()
    # Of two that end together the longer is meant: "river bank", not "bank".
    ends = {(_last_end(folded, wording), len(wording)): wording for wording in options}
    latest = max(ends, default=(-1, 0))
    return options[ends[latest]] if latest[0] >= 0 else None


def _last_end(folded: str, wording: str) -> int:
    """Where `wording` last ends as whole words, or -1."""
    edges = rf"(?<!\w){re.escape(wording)}(?!\w)"
    return max((match.end() for match in re.finditer(edges, folded)), default=-1)


def _named(options: Sequence[str], line: str) -> str | None:
    """The longest option the line begins with, whatever the capitals."""
    folded = re.sub(r"^\(?\w\) *", "", line).casefold() if line[:3].count(")") else line.casefold()
    fitting = [
        option for option in options if re.match(rf"{re.escape(option.casefold())}(?!\w)", folded)
    ]
    return max(fitting, key=len, default=None)


def _lettered(lettered: dict[str, str], line: str) -> str | None:
    match = _LETTER.match(line)
    return lettered.get((match[1] or match[2]).casefold()) if match else None


def _expression(wording: str) -> str | None:
    """``14 + 9 = 23`` -> ``(14 + 9)``; None unless it begins with arithmetic that has a value."""
    match = _ARITHMETIC.match(_plain(wording).lstrip())
    if match is None:
        return None
    found = match[0].strip().rstrip(".")
    label = found if found.startswith("(") and found.endswith(")") else f"({found})"
    return label if accuracy.is_correct("equation", label, label) else None


def _first_line(wording: str) -> str:
    """Without quotes, emphasis and final punctuation."""
    line = next((line for line in wording.splitlines() if line.strip()), "")
    boxed = re.search(r"\\boxed\{(.*)\}", line)
    return (boxed[1] if boxed else line).strip(_DECORATION)


def _plain(text: str) -> str:
    for sign, ascii_sign in _TYPOGRAPHY.items():
        text = text.replace(sign, ascii_sign)
    return _THOUSANDS.sub("", text)
