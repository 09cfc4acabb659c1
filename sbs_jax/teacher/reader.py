"""Turns a journal's completions into one answer per record."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator

from sbs_jax.datasets.records import Record
from sbs_jax.teacher import answer_parser, confidence
from sbs_jax.teacher.answer_parser import Reading, Strictness
from sbs_jax.teacher.journal import Journal
from sbs_jax.teacher.parse_report import Completion, ParseReport
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.requests import CHARACTERS_PER_TOKEN, answer_key
from sbs_jax.teacher.voting import Answer, vote

ShaOf = Callable[[Record], str]

_SENTENCE = re.compile(r".+?(?:[.!?][\"')\]]*(?=\s|$)|\n|$)\s*", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """How completions are read.

    Attributes:
        thoughts_as_rationale: a model's thoughts are the rationale of an answer without one.
        max_rationale_tokens: longer rationales end at a sentence before it; characters / 4.
        rationales: the most that an answer keeps.
    """

    strictness: Strictness = "tolerant"
    thoughts_as_rationale: bool = False
    max_rationale_tokens: int | None = None
    rationales: int = 1


TOLERANT = Rules()


def shortened(rationale: str, max_tokens: int) -> str:
    """The whole sentences at the start that fit; where the first does not, as many words as fit."""
    rationale, room = rationale.strip(), max_tokens * CHARACTERS_PER_TOKEN
    if len(rationale) <= room:
        return rationale
    end = 0
    for sentence in _SENTENCE.finditer(rationale):
        if len(rationale[: sentence.end()].rstrip()) > room:
            break
        end = sentence.end()
    if end:
        return rationale[:end].rstrip()
    start = rationale[: room + 1]
    return start.rsplit(maxsplit=1)[0] if " " in start else start[:room]


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads a journal's answers to records.

    Attributes:
        sha_of: the key of a record's request, without the number of the sample.
    """

    prompt: Prompt
    journal: Journal
    sha_of: ShaOf
    n: int = 1
    rules: Rules = TOLERANT

    def answers(self, records: Iterable[Record], report: ParseReport) -> Iterator[Answer]:
        """One per record, in order; counts into `report`."""
        for record in records:
            completions = list(self._completions(record))
            readings, sure = [], []
            for completion in completions:
                reading = self._read(record, completion)
                report.count(record, completion, reading)
                readings.append(reading)
                sure.append(confidence.of(completion.tokens, reading.sentence, reading.wording))
            report.records += 1
            report.unanswered += not completions
            report.sampled += len(completions) > 1
            report.identical_samples += len(completions) > 1 and len(set(completions)) == 1
            yield vote(self.prompt.metric, record, readings, sure, self.rules.rationales)

    def readings(self, record: Record) -> list[Reading]:
        """What every sample of one record says."""
        return [self._read(record, completion) for completion in self._completions(record)]

    def _read(self, record: Record, completion: Completion) -> Reading:
        if completion.refused:
            return answer_parser.refused()
        reading = answer_parser.read(
            self.prompt, record, completion.text, completion.finish_reason, self.rules.strictness
        )
        if not reading.has_label:
            return reading
        rationale = reading.rationale
        if self.rules.thoughts_as_rationale and not rationale.strip():
            rationale = completion.thoughts
        if self.rules.max_rationale_tokens is not None:
            rationale = shortened(rationale, self.rules.max_rationale_tokens)
        return dataclasses.replace(reading, rationale=rationale)

    def _completions(self, record: Record) -> Iterator[Completion]:
        """Every sample in the journal."""
        sha = self.sha_of(record)
        for sample in range(self.n):
            row = self.journal.get(answer_key(sha, sample))
            if row is not None:
                yield Completion.of(row)
