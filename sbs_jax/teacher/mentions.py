"""Finds labels in free text, and whether it states them as the answer or rejects them.

A label counts as stated where its clause neither negates it, nor compares it with another, nor
asks about it. Rather no answer than one that the text rules out.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping

from sbs_jax.utils import words

# A clause with one of these states nothing about its labels.
_NEGATING = re.compile(
    r"\b(?:no|not|never|neither|nor|none|cannot|without|wrong|incorrect(?:ly)?|false|untrue"
    r"|rul\w+ (?:\w+ ){0,2}out|exclud\w+|eliminat\w+|reject\w*|dismiss\w*|discard\w*|distractors?"
    r"|impossible|unlikely|implausible|irrelevant|fails?|opposite|less|least|if|unless|hardly"
    r"|doubt\w*|lack\w*|insufficient|unable|avoid\w*|far from|(?:anything|all) but|refut\w+"
    r"|disprov\w+)\b"
    r"|n['’]t\b|\?\s*$"
)
# What follows one of these in a clause is the label that the other one is preferred to.
_COMPARING = re.compile(
    r"\b(?:than|instead of|as opposed to|unlike|other than|apart from|aside from|except|besides"
    r"|over|against|versus|vs|such as|e\.g|like|excluding|compared (?:to|with))\b"
)
_BREAK = re.compile(
    r"\n+|[.;!]+(?=\s|$)|(?<=\?)|,(?=\s)|\s[-–—]+\s"
    r"|(?<!all )(?<!thing )\bbut\b"
    r"|\b(?:while|whereas|because|since|although|though|so|therefore|hence|thus)\b"
)
# Too short to be a name in free text: they count behind their letter only.
_WORDS = frozenset({"a", "an", "the", "i", "it", "is", "to", "of", "in", "on", "at", "be", "so"})


@dataclasses.dataclass(frozen=True, slots=True)
class Mention:
    """One label in a text: where, and whether it is stated as the answer there."""

    label: str
    start: int
    end: int
    stated: bool


def find(wordings: Mapping[str, str], text: str) -> list[Mention]:
    """Every mention of a label, in order.

    Args:
        wordings: what names a label -> the label; ``(a)`` is a wording of the choice a. Capitals
            do not matter, and the longest of several counts.
    """
    folded = text.casefold()
    labels = {wording.casefold(): label for wording, label in wordings.items()}
    names = sorted((w for w in labels if w and w not in _WORDS), key=len, reverse=True)
    if not names:
        return []
    pattern = re.compile(words.whole("|".join(map(re.escape, names))))
    places = [(match.start(), match.end(), match[0]) for match in pattern.finditer(folded)]
    merged = list(_merged(places, folded))
    around = _without(folded, merged)
    clauses = list(_clauses(around, {start for start, _, _ in merged}))
    return [
        Mention(labels[name], start, end, _is_stated(around, clauses, start))
        for start, end, name in merged
    ]


def _without(text: str, places: list[tuple[int, int, str]]) -> str:
    """The text with its labels blanked: "none of the above" negates no clause it is named in."""
    for start, end, _ in places:
        text = text[:start] + "_" * (end - start) + text[end:]
    return text


def _merged(places: list[tuple[int, int, str]], text: str) -> Iterator[tuple[int, int, str]]:
    """``(d) bank`` is one mention: the text counts, whatever its letter."""
    for index, (start, end, name) in enumerate(places):
        previous = places[index - 1] if index else None
        if previous and _is_letter(previous[2]) and _adjoin(text, previous[1], start):
            continue
        after = places[index + 1] if index + 1 < len(places) else None
        if after and _is_letter(name) and _adjoin(text, end, after[0]):
            yield start, after[1], after[2]
        else:
            yield start, end, name


def _is_letter(name: str) -> bool:
    return name.startswith("(") and len(name) == 3


def _adjoin(text: str, end: int, start: int) -> bool:
    return not text[end:start].strip(" :*_\"'")


def _clauses(text: str, starts: set[int]) -> Iterator[tuple[int, int]]:
    """(Start, end) of every clause; a comma before a further label of a list ends none."""
    begin = 0
    for match in _BREAK.finditer(text):
        behind = re.match(r"\s*(?:(?:or|and|nor)\s+)?", text[match.end() :])
        listed = match[0] == "," and match.end() + (behind.end() if behind else 0) in starts
        if not listed:
            yield begin, match.end()
            begin = match.end()
    yield begin, len(text)


def _is_stated(text: str, clauses: list[tuple[int, int]], start: int) -> bool:
    begin, end = next((b, e) for b, e in clauses if b <= start < e)
    clause = text[begin:end]
    return not _NEGATING.search(clause) and not _COMPARING.search(text[begin:start])
