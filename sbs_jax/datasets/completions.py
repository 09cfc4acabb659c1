"""Parses a teacher's completion into (rationale, label): one parser per released format.

Every parser reproduces what the original's data_utils.py reads out of the same text, oddities
included, so that labels and rationales are equal to its own for each released completion. An
answer that cannot be read is blank text: ``" "``, or ``""`` in the ANLI format.

The few-shot completions run on past their answer into invented further questions ("Q: ...",
"Premise: ..."); everything from that marker on is cut.
"""

import re
from collections.abc import Callable

Parser = Callable[[str], tuple[str, str]]

UNREADABLE = " "
_NOTHING = (UNREADABLE, UNREADABLE)
_OPTION = re.compile(r"\(.\)")
_BRACKETED = re.compile(r"\(.*\)")


def cqa(text: str) -> tuple[str, str]:
    """``RATIONALE So the answer is (d) LABEL.`` then ``Q: ...``.

    The label is the text between the first option letter and the next, without one final period;
    blank where no option is named. Without exactly one answer phrase both are blank (the original
    raised there; no released completion is so).
    """
    halves = _halves(_before(text, "Q:"), "So the answer is")
    if halves is None:
        return _NOTHING
    rationale, answer = halves
    options = _OPTION.split(answer)
    label = options[1].strip() if len(options) > 1 else ""
    return rationale, label.removesuffix(".") if label else UNREADABLE


def svamp(text: str) -> tuple[str, str]:
    """``RATIONALE The answer is (5 * 6) + (5 * 7).`` then ``Q: ...``.

    The label reaches from the first opening to the last closing bracket of a line; blank without.
    Without exactly one answer phrase both are blank.
    """
    halves = _halves(_before(text, "Q:"), "The answer is")
    if halves is None:
        return _NOTHING
    rationale, answer = halves
    equation = _BRACKETED.search(answer)
    return rationale, equation[0] if equation else UNREADABLE


def esnli(text: str) -> tuple[str, str]:
    """``RATIONALE`` newline ``Answer: LABEL`` then ``Premise: ...``.

    A label that the teacher's token budget cut off in the next premise keeps that fragment, as in
    the original ("entailment\\n\\nPre").
    """
    rationale = text.split("Answer:")[0].rstrip()
    answers = text.split("Answer: ")
    return rationale, _before(answers[1], "Premise") if len(answers) > 1 else UNREADABLE


def anli(text: str) -> tuple[str, str]:
    """``RATIONALE So the answer is LABEL.`` then ``Premise: ...``.

    The label loses its last character, whatever it is. Without exactly one answer phrase both
    are empty.
    """
    return _anli(_halves(_before(text, "Premise:"), "So the answer is"))


def cqa_neox(text: str) -> tuple[str, str]:
    """As `cqa`, for the original's GPT-NeoX 20B completions: drops leading space."""
    return cqa(_before(text, "Q:").lstrip())


def svamp_neox(text: str) -> tuple[str, str]:
    """As `svamp`, for GPT-NeoX: drops leading space."""
    return svamp(_before(text, "Q:").lstrip())


def esnli_neox(text: str) -> tuple[str, str]:
    """As `esnli`, for GPT-NeoX: drops the rationale's leading space."""
    rationale, label = esnli(text)
    return rationale.lstrip(), label


def anli_neox(text: str) -> tuple[str, str]:
    """As `anli`, for GPT-NeoX: drops leading space and accepts ``The answer is``."""
    block = _before(text, "Premise:").lstrip()
    return _anli(_halves(block, "So the answer is") or _halves(block, "The answer is"))


def phrase(text: str, answer: str = "So the answer is", stop: str = "Q:") -> tuple[str, str]:
    """``RATIONALE So the answer is LABEL.``: the format for a new dataset.

    The label is what follows the last answer phrase on its line, without one final period; both
    are blank where the phrase or the label is missing.
    """
    rationale, separator, rest = _before(text, stop).rpartition(answer)
    lines = rest.strip().splitlines()
    label = lines[0].strip().removesuffix(".").rstrip() if lines else ""
    return (rationale.strip(), label) if separator and label else _NOTHING


PARSERS: dict[str, Parser] = {
    parser.__name__: parser
    for parser in (cqa, svamp, esnli, anli, cqa_neox, svamp_neox, esnli_neox, anli_neox, phrase)
}


def _before(text: str, marker: str) -> str:
    return text.split(marker)[0].rstrip()


def _halves(block: str, answer: str) -> tuple[str, str] | None:
    """(Rationale, what follows the phrase), or None unless the phrase occurs exactly once."""
    parts = block.split(answer)
    return (parts[0].rstrip(), parts[1]) if len(parts) == 2 else None


def _anli(halves: tuple[str, str] | None) -> tuple[str, str]:
    rationale, answer = halves or ("", "")
    return rationale, answer.lstrip()[:-1]
