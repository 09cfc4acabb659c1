"""A completion -> (rationale, label), down a ladder of ever more tolerant readings.

The rungs, each counted in the parse report:

* ``exact``: the released format, read by the dataset's parser of `completions`;
* ``spelling``: the same, but the label had to be brought to the dataset's spelling ("Neutral",
  "(d)" alone);
* ``json``: an object with an answer;
* ``phrase``: another wording with "answer is" or "Answer:", as chat models write;
* ``last_label``: no phrase; the label named last in a finished completion.

Where no rung holds, the reason is counted instead: ``empty``, ``cut_off`` (the token budget ended
it), ``several`` ("either (a) pond or (b) lake"), ``outside`` (it names an answer that is no
possible label) or ``no_answer``. Run-on text after a stop string is cut first, whether or not the
server did so (the released completions all run on,
https://github.com/google-research/distilling-step-by-step/issues/8).
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from sbs_jax.datasets.records import Record
from sbs_jax.teacher import labels
from sbs_jax.teacher.prompts import Prompt

Strictness = Literal["tolerant", "exact"]

READ = ("exact", "spelling", "json", "phrase", "last_label")
UNREAD = ("empty", "cut_off", "several", "outside", "no_answer")

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_LEAD = r"[*_#]*(?:\b(?:so|thus|hence|therefore|then)\b[, ]*)?(?:\b(?:the|my)\s+)?"
_PHRASE = re.compile(
    rf"{_LEAD}(?:\b(?:final|correct|best|right)\s+)?\banswer\b[*_\"]*\s*(?:is|:|=)+[*_\s:]*",
    re.IGNORECASE,
)
_ANSWER_KEYS = ("answer", "label", "final_answer")
_RATIONALE_KEYS = ("rationale", "reasoning", "explanation", "reasonings", "reason")


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """What a completion says; a label is "" exactly where `outcome` is in `UNREAD`."""

    rationale: str
    label: str
    outcome: str

    @property
    def found(self) -> bool:
        return self.outcome in READ


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
        rationale, label = prompt.parse(text)
        if label.strip():
            return Reading(rationale, label, "exact")
        return Reading(rationale, "", "no_answer" if text.strip() else "empty")
    block = _block(prompt, text)
    if not block:
        return _unread("cut_off" if finish_reason == "length" else "empty")
    space = (prompt.answer, prompt.labels, record.input)
    after_phrase = _after_phrase(block)
    if after_phrase and labels.hedges(*space, after_phrase[1]):
        return _unread("several")
    outside = False
    for rung, rationale, wording in _candidates(prompt, block, after_phrase):
        label = labels.meant(*space, wording)
        if label is not None:
            if rung == "exact" and label != wording:
                rung = "spelling"
            return Reading(rationale.strip(), label, rung)
        outside = True
    if finish_reason == "length":
        return _unread("cut_off")
    if outside:
        return _unread("outside")
    label = labels.last_meant(*space, block)
    return Reading(block, label, "last_label") if label else _unread("no_answer")


def _unread(reason: str) -> Reading:
    return Reading("", "", reason)


def _block(prompt: Prompt, text: str) -> str:
    """The completion of this record alone: no hidden thoughts, no repeated cue, no run-on."""
    text = _THOUGHT.sub("", text).strip().removeprefix(prompt.cue).strip()
    for stop in prompt.stop:
        text = text.split(stop)[0]
        if text.startswith(stop.strip()):
            return ""  # no answer at all: it went on with a question of its own
    return text.strip()


def _candidates(
    prompt: Prompt, block: str, after_phrase: tuple[str, str] | None
) -> Iterator[tuple[str, str, str]]:
    """(Rung, rationale, wording of the label), the most trustworthy first."""
    rationale, label = prompt.parse(block)
    if label.strip():
        yield "exact", rationale, label
    found = _first_object(block)
    if found is not None:
        yield "json", *found
    if after_phrase is not None:
        yield "phrase", *after_phrase


def _after_phrase(block: str) -> tuple[str, str] | None:
    """(What stands before, what follows) the last wording with "answer is"."""
    phrases = list(_PHRASE.finditer(block))
    if not phrases:
        return None
    wording = block[phrases[-1].end() :]
    return (block[: phrases[-1].start()], wording) if wording.strip() else None


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
    folded = {name.casefold(): item for name, item in value.items()}
    found = next((folded[name] for name in names if name in folded), "")
    return str(found) if isinstance(found, str | int | float) else ""
