"""Parses a completion into (rationale, label), by a ladder of ever more tolerant readings.

The rungs, each counted in the parse report:

* ``exact``: the released format, read by the dataset's parser of `completions`;
* ``spelling``: the same, but the label had to be brought to the dataset's spelling ("Neutral",
  "(d)" alone);
* ``json``: an object with an answer;
* ``phrase``: another wording with "answer is" or "Answer:", a box, or a tag, as chat models write;
* ``last_label``: no phrase; the one label that a finished completion states (see `mentions`).

The first complete answer sentence ends the reading: the rationale is before it, and what follows is
ignored, unless it gives another answer. Where no rung holds, the reason is counted instead:
``empty``, ``refused``, ``cut_off`` (the token budget ended it), ``several`` ("either (a) pond or
(b) lake", or two answers), ``outside`` (it names an answer that is no possible label) or
``no_answer``. Thoughts between marks are left out (see `thoughts`), and run-on text after a stop
string is cut, whether or not the server did so (the released completions all run on,
https://github.com/google-research/distilling-step-by-step/issues/8).
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from sbs_jax.datasets.records import Record
from sbs_jax.metrics import accuracy
from sbs_jax.teacher import labels, thoughts
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.replies import is_cut

Strictness = Literal["tolerant", "exact"]

READ = ("exact", "spelling", "json", "phrase", "last_label")
UNREAD = ("empty", "refused", "cut_off", "several", "outside", "no_answer")

_LEAD = r"[*_#]*(?:\b(?:so|thus|hence|therefore|then)\b[, ]*)?(?:\b(?:the|my)\s+)?"
_PHRASE = re.compile(
    rf"{_LEAD}(?:\b(?:final|correct|best|right)\s+)?\banswer\b[*_\"]*\s*"
    r"(?:(?:is|(?:would|will) be)\b|:|=)[*_\s:=]*"
    r"|<answer>\s*|#{4,}\s*|(?=\\boxed\s*\{)",
    re.IGNORECASE,
)
_FRAME = " \t\n$*_:(["
# A sentence that such a word opens gives no answer.
_REJECTED = re.compile(
    r"\b(?:wrong|incorrect|false|bad|worst|unlikely|another|other|possible|no|not|n't)"
    r"(?:\s+(?:the|an?|my))?\s*$",
    re.IGNORECASE,
)
_ANSWER_KEYS = (
    *("answer", "label", "final_answer", "correct_answer", "choice", "option"),
    *("correct_choice", "correct_option", "prediction"),
)
_RATIONALE_KEYS = ("rationale", "reasoning", "explanation", "reasonings", "reason")


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a completion says; a label is "" exactly where `outcome` is in `UNREAD`.

    Attributes:
        contradiction: the letter of one choice with the text of another; the text counts.
        sentence, wording: the text the label was read from, and the label's part of it.
    """

    rationale: str
    label: str
    outcome: str
    contradiction: bool = False
    sentence: str = dataclasses.field(default="", compare=False)
    wording: str = dataclasses.field(default="", compare=False)

    @property
    def has_label(self) -> bool:
        """Whether there is a label."""
        return self.outcome in READ


@dataclasses.dataclass(frozen=True, slots=True)
class _Sentence:
    """A wording with "answer is": what is before it, what follows on its line, its end."""

    before: str
    opening: str
    wording: str
    end: int


def refused() -> Reading:
    """The reading of a refusal."""
    return _unread("refused")


def read(
    prompt: Prompt,
    record: Record,
    text: str,
    finish_reason: str | None = "stop",
    strictness: Strictness = "tolerant",
) -> Reading:
    """Reads one completion of the record's prompt; never raises.

    ``exact`` takes the first rung only and keeps the label as written, even one that is no
    possible label, and the rationale of an unreadable label: what the original does with the
    released completions.
    """
    if strictness == "exact":
        return _exact(prompt, thoughts.split(text)[1] if _may_think(text) else text)
    block = _block(prompt, text)
    truncated = is_cut(finish_reason)
    if not block:
        return _unread("cut_off" if truncated else "empty")
    reading = _sentence_reading(prompt, record, block, truncated)
    if reading is not None:
        return reading
    if truncated:
        return _unread("cut_off")
    stated = labels.stated(prompt.answer, prompt.labels, record.input, block)
    if len(stated) != 1:
        return _unread("several" if stated else "no_answer")
    two = labels.contradicts(prompt.answer, record.input, block)
    part = labels.written_part(block, stated[0])
    return Reading(_explanation(prompt, record, block), stated[0], "last_label", two, block, part)


def _exact(prompt: Prompt, text: str) -> Reading:
    rationale, label = prompt.parse(text)
    if label.strip():
        return Reading(rationale, label, "exact")
    return Reading(rationale, "", "no_answer" if text.strip() else "empty")


def _may_think(text: str) -> bool:
    # Only a text with marks is touched: the original keeps all outer white space.
    return bool(thoughts.split(text)[0])


def _unread(reason: str) -> Reading:
    return Reading("", "", reason)


def _block(prompt: Prompt, text: str) -> str:
    """The completion of this record alone: no thoughts, no repeated cue, no run-on."""
    text = thoughts.split(text)[1].removeprefix(prompt.cue).strip()
    for stop in prompt.stop:
        text = text.split(stop)[0]
        words = stop.strip()
        if not words:
            continue  # a line break: it has no other spelling, and none is left at the start
        text = re.split(rf"\n\s*{re.escape(words.rstrip(':'))}\s*:", text)[0]
        if text.startswith(words):
            return ""  # no answer at all: it went on with another question
    return text.strip()


def _sentence_reading(
    prompt: Prompt, record: Record, block: str, truncated: bool
) -> Reading | None:
    """The reading of an answer sentence or object; None where the text has none."""
    space = (prompt.answer, prompt.labels, record.input)
    sentences = _sentences(block, truncated)
    if any(labels.hedges(*space, sentence.wording) for sentence in sentences):
        return _unread("several")
    meanings = [labels.meant(*space, sentence.wording) for sentence in sentences]
    known = [label for label in meanings if label is not None]
    if _differ(prompt, known):
        return _unread("several")
    meant = [s for s, label in zip(sentences, meanings, strict=True) if label is not None]
    outside = bool(sentences)
    for rung, rationale, wording in _candidates(prompt, block, meant, truncated):
        label = labels.meant(*space, wording)
        if rung == "exact" and sentences and _takes_a_part(prompt, label, known):
            label = None
        if label is not None:
            if rung == "exact" and label != wording:
                rung = "spelling"
            written = meant[0].wording if meant else wording  # the exact parser drops letters
            two = labels.contradicts(prompt.answer, record.input, written)
            opening = meant[0].opening if meant else ""
            sentence, part = opening + written, labels.written_part(written, label)
            if rung == "json":
                sentence = _json_string(wording)
                part = _json_string(labels.written_part(wording, label))[1:-1]
            rationale = rationale.strip()
            if rung == "phrase":
                rationale = _explanation(prompt, record, rationale)
            return Reading(rationale, label, rung, two, sentence, part)
        outside = True
    return _unread("outside") if outside and not truncated else None


def _takes_a_part(prompt: Prompt, label: str | None, meant: list[str]) -> bool:
    """Whether the exact parser dropped what is next to brackets: ``(12 - 2) - 7``."""
    return prompt.answer == "expression" and _differ(prompt, [label or "", *(meant or [""])])


def _differ(prompt: Prompt, candidates: list[str]) -> bool:
    return any(
        label != candidates[0] and not accuracy.is_correct(prompt.metric, label, candidates[0])
        for label in candidates
    )


def _sentences(block: str, truncated: bool) -> list[_Sentence]:
    """The wordings with "answer is", in order; of a text that was cut off the complete ones."""
    matches = list(_starts(block))
    sentences = []
    for number, match in enumerate(matches):
        behind = block[match.end() :]
        lines = re.match(r"\s*[^\n]*", behind)
        end = match.end() + (lines.end() if lines else 0)
        complete = not truncated or end < len(block) or _is_complete(behind)
        if number + 1 < len(matches):
            end = min(end, matches[number + 1].start())
            complete = True
        wording = block[match.end() : end]
        if wording.strip() and complete:
            sentences.append(_Sentence(block[: match.start()], match[0], wording, end))
    return sentences


def _starts(block: str) -> Iterator[re.Match[str]]:
    """The openings of answer sentences; a box inside of one opens none."""
    previous = None
    for match in _PHRASE.finditer(block):
        inside = previous is not None and not match[0].strip()
        if _REJECTED.search(block[: match.start()]):
            continue
        if not (inside and not block[previous : match.start()].strip(_FRAME)):
            yield match
        previous = match.end()


def _is_complete(wording: str) -> bool:
    """Whether a wording at the very end of a cut text is whole: a sentence or choice has ended."""
    return bool(re.match(r"\s*\(\w\)|.*[.!\n}](?:\s|$)", wording, re.DOTALL))


def _candidates(
    prompt: Prompt, block: str, sentences: list[_Sentence], truncated: bool
) -> Iterator[tuple[str, str, str]]:
    """(Rung, rationale, wording of the label), the most trustworthy first."""
    structured = _first_object(block)
    if structured is not None:
        yield "json", *structured
    ends = [sentence.end for sentence in sentences] or ([] if truncated else [len(block)])
    for end in ends if structured is None else ():
        rationale, label = prompt.parse(block[:end])
        if label.strip():
            yield "exact", rationale, label
            break
    if sentences:
        yield "phrase", sentences[0].before, sentences[0].wording


def _first_object(block: str) -> tuple[str, str] | None:
    """(Rationale, answer) of the first JSON object that has an answer."""
    decoder = json.JSONDecoder()
    for start in re.finditer(r"\{", block):
        try:
            value, _ = decoder.raw_decode(block, start.start())
        except (ValueError, RecursionError):
            continue
        answer = _field(value, _ANSWER_KEYS)
        if answer:
            return _field(value, _RATIONALE_KEYS), answer
    return None


def _field(value: dict[str, Any], names: tuple[str, ...]) -> str:
    folded = {re.sub(r"[\s-]", "_", name.casefold()): item for name, item in value.items()}
    item = next((folded[name] for name in names if name in folded), "")
    if isinstance(item, list) and len(item) == 1:
        item = item[0]
    return str(item) if isinstance(item, str | int | float) else ""


def _json_string(text: str) -> str:
    """The text in quotes, as most models write it in an object."""
    return json.dumps(text, ensure_ascii=False)


def _explanation(prompt: Prompt, record: Record, block: str) -> str:
    """The text as a rationale: none where it is a label alone."""
    line = labels.first_line(block)
    options = labels.allowed(prompt.answer, prompt.labels, record.input)
    letters = labels.choices(record.input) if prompt.answer == "choices" else {}
    alone = {option.casefold() for option in options}
    alone |= {f"({letter})" for letter in letters}
    bare = re.sub(r"^\(\w\)\s*", "", line.casefold()) or line.casefold()
    return "" if block.count("\n") == 0 and {bare, line.casefold()} & alone else block
