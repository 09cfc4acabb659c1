"""Finds gold labels that no answer can match, before any request is sent.

A gold label is possible if it is one of the prompt's labels, or of its input's choices, and right
by the dataset's metric when compared with itself. Letters in place of choices, other capitals, or
thousands separators make a teacher look wrong that is right every time
(https://github.com/EleutherAI/lm-evaluation-harness/issues/2279).
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.metrics import accuracy
from sbs_jax.teacher import labels, plain_text
from sbs_jax.teacher.prompts import Prompt

Reading = Literal["checked", "meant", "any"]

_SHOWN = 5


def is_possible(prompt: Prompt, record: Record) -> bool:
    """Whether some answer can match the record's gold label; a record without one passes."""
    label = record.label
    if not label.strip():
        return True
    options = labels.allowed(prompt.answer, prompt.labels, record.input)
    listed = prompt.answer not in ("labels", "choices") or label in options
    return listed and accuracy.is_correct(prompt.metric, label, label)


def meant(prompt: Prompt, record: Record) -> str | None:
    """The possible label that an impossible one means, or None.

    A letter means its choice, other capitals and outer spaces do not matter, and a number
    loses currency signs and the separators of its thousands.
    """
    label = " ".join(record.label.split())
    if prompt.answer in ("labels", "choices"):
        options = labels.allowed(prompt.answer, prompt.labels, record.input)
        letters = labels.choices(record.input) if prompt.answer == "choices" else {}
        wordings = {" ".join(option.split()).casefold(): option for option in options}
        wordings |= {letter: letters[letter] for letter in letters if letter not in wordings}
        folded = label.casefold()
        lettered = re.fullmatch(r"\(?(\w)[).:]+ (.+)", folded)
        if lettered and wordings.get(lettered[2], "") != letters.get(lettered[1]):
            return None  # the letter of one choice with the text of another
        plain = lettered[2] if lettered else folded.strip("().: ")
        return wordings.get(folded) or wordings.get(plain)
    number = plain_text.arithmetic(record.label).strip()
    return number if number and accuracy.is_correct(prompt.metric, number, number) else None


def read(prompt: Prompt, records: Iterable[Record]) -> Iterator[Record]:
    """The records, each with the label that its gold label means."""
    for record in records:
        if is_possible(prompt, record):
            yield record
        else:
            label = meant(prompt, record)
            yield record if label is None else dataclasses.replace(record, label=label)


def check(prompt: Prompt, inputs: Mapping[str, Callable[[], Iterable[Record]]]) -> None:
    """Raises UserError that counts and shows the gold labels no answer can match."""
    for split, records in inputs.items():
        count, wrong, readable = 0, list[Record](), 0
        number = 0
        for record in records():
            count += 1
            if is_possible(prompt, record):
                continue
            number += 1
            readable += meant(prompt, record) is not None
            if len(wrong) < _SHOWN:
                wrong.append(record)
        if number:
            raise UserError(_message(prompt, split, wrong, (number, count, readable)))


def _message(prompt: Prompt, split: str, wrong: list[Record], counts: tuple[int, int, int]) -> str:
    number, count, readable = counts
    shown = ", ".join(_shown(prompt, record) for record in wrong)
    options = labels.allowed(prompt.answer, prompt.labels, wrong[0].input)
    possible = f"possible here: {', '.join(options)}; " if options else ""
    advice = f"--gold=meant reads {readable} of them as shown, " if readable else ""
    return (
        f"{split}: {number} of {count} gold labels are no possible answer: {shown}; {possible}"
        f"correct the label field; {advice}--gold=any asks all the same and counts them as wrong"
    )


def _shown(prompt: Prompt, record: Record) -> str:
    label = meant(prompt, record)
    return f"{record.label[:40]!r} of record {record.id}" + (f" (means {label!r})" if label else "")
