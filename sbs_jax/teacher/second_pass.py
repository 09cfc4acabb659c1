"""Asks questions that the teacher got wrong a second time, in another way.

Rejection: more samples at a higher temperature, of which the right ones are taken. Rationalisation:
the gold label is given, and only the explanation is asked for (STaR, Zelikman et al. 2022). What
comes of either is a rationale to train on; the teacher's label and accuracy stay those of its
first answers.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping

from sbs_jax.datasets.records import Record
from sbs_jax.metrics import accuracy
from sbs_jax.teacher.journal import Journal
from sbs_jax.teacher.parse_report import ParseReport
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.reader import Reader, Rules
from sbs_jax.teacher.requests import Recipe

RETRIED = "retried"
RATIONALIZED = "rationalized"
RETRY_TEMPERATURE = 1.0

# (Split, record id) -> (rationale, the pass it comes from)
Rationales = Mapping[tuple[str, str], tuple[str, str]]


def recipe(first: Recipe, name: str) -> Recipe:
    """The recipe of the second pass `name`."""
    if name == RATIONALIZED:
        return dataclasses.replace(first, label_given=True)
    return dataclasses.replace(first, temperature=max(first.temperature, RETRY_TEMPERATURE))


def wrong(
    reader: Reader, inputs: Mapping[str, Callable[[], Iterable[Record]]], done: Rationales
) -> dict[str, list[Record]]:
    """The records whose answer is not the gold label, and that no earlier pass has explained."""
    mistaken: dict[str, list[Record]] = {}
    for split, records in inputs.items():
        for answer in reader.answers(records(), ParseReport()):
            record = answer.record
            if not answer.samples or not record.label.strip() or (split, record.id) in done:
                continue
            if not accuracy.is_correct(reader.prompt.metric, answer.label, record.label):
                mistaken.setdefault(split, []).append(record)
    return mistaken


def explanations(
    journal: Journal,
    second: Recipe,
    n: int,
    rules: Rules,
    records: Mapping[str, list[Record]],
    name: str,
) -> dict[tuple[str, str], tuple[str, str]]:
    """The shortest rationale of each record among the samples that give the gold label."""
    reader = Reader(second.prompt, journal, lambda record: second.request(record).sha, n, rules)
    rationales = {}
    for split, questions in records.items():
        for record in questions:
            right = [r for r in _right(reader, second.prompt, record) if r.strip()]
            if right:
                rationales[split, record.id] = (min(right, key=len), name)
    return rationales


def _right(reader: Reader, prompt: Prompt, record: Record) -> Iterator[str]:
    for reading in reader.readings(record):
        if reading.has_label and accuracy.is_correct(prompt.metric, reading.label, record.label):
            yield reading.rationale
