"""Kinds of labels, how a prompt shows them, and which label a teacher's wording means.

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
from sbs_jax.teacher import mentions, plain_text

Kind = Literal["labels", "choices", "expression", "text"]

_CHOICE = re.compile(r"^\((\w)\) (.*\S)\s*$", re.MULTILINE)
_LETTERS = re.compile(r"(?:\((\w)\)[\s:*_]*)+")
# A letter without brackets counts alone, before a mark, or where a mark and words follow.
_BARE_LETTER = re.compile(
    r"(\w)(?:[).:]\s*|\s*$|\s*\(|\s+[-–—]\s|,\s+(?!(?:\w|and|or)\b))", re.IGNORECASE
)
_DECORATION = " \t\r\n\"'`*_$.,;:!“”‘’«»"
# A line that is a letter and nothing else.
_ALONE = re.compile(
    r"^\W*(?:(?:the |my )?(?:correct |right |best )?(?:option|choice|answer|letter)(?: is)?\W+)?"
    r"([A-Za-z])\W*$",
    re.IGNORECASE | re.MULTILINE,
)
_LIST_MARK = re.compile(r"^(?:[-•>]|\d+[.)])\s+(?=\()")
_CONDITION = r"\W*\b(?:if|unless|provided|assuming|depending|otherwise|else)\b"
_POINT = re.compile(r"\.\d")
_LEAD = re.compile(
    r"(?:(?:clearly|definitely|obviously|simply|(?:most )?(?:probably|likely|certainly)|thus"
    r"|therefore|indeed|just|exactly|equal to|a total of|the (?:following|correct|right|best)"
    r"|(?:correct|right|best)(?= (?:option|choice|letter))|an?(?=\s)|the|my|option|choice"
    r"|letter|label|answer|number)\b[\s:*_\"'`$]*)+",
    re.IGNORECASE,
)
_ARITHMETIC = re.compile(r"(?:[-+\d(]|\.(?=\d))[\d .+\-*/()]*(?!\w)")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?(?!\d)|\d\d?/\d\d?/\d{4}")
_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
# Behind a number these make another number of it.
_CONTINUES = re.compile(
    r"[.,:'/]\d|[\^²³√{\\]"
    r"|%?\s*(?:more|less|fewer|plus|minus|times|divided|multiplied|(?:dozen|hundred|thousand"
    r"|million|billion|trillion)\w*|half|halves|thirds?|quarters?|to|of|out|over|and|or|per|from"
    r"|[xyzn])\b",
    re.IGNORECASE,
)
# Where what is said of a number ends: its value, a remark, the next sentence.
_REMARK = re.compile(
    r"[=≈→⇒\n(;]|[.!?](?=\s|$)"
    r"|\b(?:because|since|as|which|where|that is|i\.e|so|thus|after|when)\b",
    re.IGNORECASE,
)
_EITHER = re.compile(r"(?:either|both|one of|any of|none of)\b")


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
    """The label that a wording means, in the dataset's spelling, or None.

    ``Neutral.`` is neutral, ``option (d)`` and ``d) bank`` are the choice d, ``3+4`` is ``(3+4)``;
    what follows the label on its line, or on later lines, does not matter. Where a letter and the
    text behind it name two choices, the text counts (see `contradicts`).
    """
    line = _line(kind, wording)
    if kind == "text":
        return line or None
    for attempt in (line, _LEAD.sub("", line, count=1) if _LEAD.match(line) else ""):
        if kind == "expression":
            label = _expression(attempt)
        else:
            label = _option(allowed(kind, labels, text), _letters(kind, text), attempt)
        if label is not None:
            return label
    return None


def contradicts(kind: Kind, text: str, wording: str) -> bool:
    """Whether a wording names one choice by its letter and another by its text, or two letters."""
    options = _letters(kind, text)
    line = _line("choices", wording)
    lead = _LEAD.match(line)
    line = line[lead.end() if lead else 0 :]
    label = _option(list(options.values()), options, line)
    if label is None:
        return False
    behind = re.match(rf".*?{re.escape(label)}\W*?\((\w)\)", line, re.IGNORECASE)
    letters = _leading_letters(line) + ([behind[1]] if behind else [])
    return bool({options.get(letter.casefold()) for letter in letters} - {label, None})


def written_part(wording: str, label: str) -> str:
    """The label as a wording writes it: its own text, else the first line without its frame."""
    place = wording.casefold().find(label.casefold())
    if place >= 0:
        return wording[place : place + len(label)]
    return next((line for line in wording.splitlines() if line.strip()), "").strip(_DECORATION)


def hedges(kind: Kind, labels: Sequence[str], text: str, wording: str) -> bool:
    """Whether a wording offers several answers: ``either (a) pond or (b) lake``, ``(a), (b)``."""
    line = _line(kind, wording).casefold()
    if kind == "expression":
        return bool(re.search(r"\b(?:and|or)\b", line))
    options = [option.casefold() for option in allowed(kind, labels, text)]
    letters = _LETTERS.match(line)
    rest = line[letters.end() :] if letters else line
    first = _named(options, rest)
    if not options or (first is None and _EITHER.match(line)):
        return bool(options)
    if first is None and len(set(_leading_letters(line))) > 1:
        return True
    rest = rest[len(first) :] if first else rest
    names = "|".join(map(re.escape, options))
    bare = "|".join(["(?!)", *_letters(kind, text)])
    joined = rf"(?:\W*(?:or|and|/|&)\W*|\s*,\s*)(?:\(\w\)|{names}|{bare})(?!\w)"
    return bool(re.match(rf"{joined}|\W*\(\w\)\W*(?:{names})(?!\w)|{_CONDITION}", rest))


def stated(kind: Kind, labels: Sequence[str], text: str, completion: str) -> list[str]:
    """The different labels that a free text states as the answer; none of kind ``text``."""
    if kind == "text":
        return []
    if kind == "expression":
        return _distinct(completion)
    if kind == "choices":
        completion = _ALONE.sub(r"(\1)", plain_text.lettered(completion))
    wordings = {option: option for option in allowed(kind, labels, text)}
    wordings |= {f"({letter})": choice for letter, choice in _letters(kind, text).items()}
    named = mentions.find(wordings, completion)
    return list(dict.fromkeys(mention.label for mention in named if mention.stated))


def _distinct(completion: str) -> list[str]:
    """The expressions with an operator in a text, one of each value."""
    plain = plain_text.arithmetic(completion)
    expressions: list[str] = []
    for match in _ARITHMETIC.finditer(plain):
        label = _expression(plain[match.start() :])
        if not label or not any(sign in label for sign in "+-*/"):
            continue
        if not any(accuracy.is_correct("equation", label, other) for other in expressions):
            expressions.append(label)
    return expressions


def _letters(kind: Kind, text: str) -> dict[str, str]:
    return choices(text) if kind == "choices" else {}


def _option(options: Sequence[str], lettered: dict[str, str], line: str) -> str | None:
    """The option that a line begins with: by its text, else by its letter."""
    letters = _LETTERS.match(line) or _BARE_LETTER.match(line) if lettered else None
    label = _named(options, line[letters.end() :].lstrip(_DECORATION)) if letters else None
    label = label or _named(options, line)
    if label is not None or letters is None:
        return label
    named = {lettered.get(letter.casefold()) for letter in _leading_letters(line)}
    return named.pop() if len(named) == 1 else None


def _leading_letters(line: str) -> list[str]:
    """The letters of choices that a line begins with: ``(a) (b) pond`` -> a, b."""
    letters = _LETTERS.match(line)
    if letters:
        return re.findall(r"\((\w)\)", letters[0])
    bare = _BARE_LETTER.match(line)
    return [bare[1]] if bare else []


def _named(options: Sequence[str], line: str) -> str | None:
    """The longest option the line begins with, whatever the capitals."""
    folded = line.casefold()
    fitting = [
        option for option in options if re.match(rf"{re.escape(option.casefold())}(?!\w)", folded)
    ]
    return max(fitting, key=len, default=None)


def _expression(wording: str) -> str | None:
    """``14 + 9 = 23`` -> ``(14 + 9)``; None unless it begins with arithmetic that has a value."""
    plain = plain_text.arithmetic(wording).lstrip()
    match = _ARITHMETIC.match(plain)
    if match is None or _DATE.match(plain) or _continues(plain[match.end() :]):
        return None
    value = _LEADING_ZEROS.sub("", match[0].strip().rstrip("."))
    if plain[match.end() :].startswith("=") and value.count("(") == value.count(")") + 1:
        value = value.removeprefix("(")  # ``(3 + 4 = 7)``
    label = value if value.startswith("(") and value.endswith(")") else f"({value})"
    return label if accuracy.is_correct("equation", label, label) else None


def _continues(behind: str) -> bool:
    """Whether what follows a number makes another one of it: ``5 feet 6 inches``, ``20% of 50``."""
    remark = _REMARK.search(behind)
    before_remark = behind[: remark.start()] if remark else behind
    return bool(_CONTINUES.match(behind) or re.search(r"\d", before_remark))


def first_line(wording: str) -> str:
    """Without LaTeX's wrappers, quotes, emphasis and final punctuation."""
    line = next((line for line in wording.splitlines() if line.strip(_DECORATION)), "")
    line = plain_text.unwrapped(line).rstrip(_DECORATION)
    inner = line.lstrip(_DECORATION)
    point = len(line) - len(inner) - 1
    return line[point:] if point >= 0 and _POINT.match(line[point:]) else inner


def _line(kind: Kind, wording: str) -> str:
    """`first_line`, of choices with plain letters and without a list's mark before them."""
    line = first_line(wording)
    if kind != "choices":
        return line
    line = _LIST_MARK.sub("", plain_text.lettered(line))
    return line.strip(_DECORATION).rstrip('}] ",')
