"""A dataset's prompt: one JSON file with our own exemplars, rendered for a record.

A few-shot prompt is a row of blocks (Wei et al. 2022; Wang et al. 2022 for NLI)::

    {question}          Q: {question}
    {cue}{completion}   A: RATIONALE So the answer is (d) bank.
    {separator}         (an empty line)
    {question}          the record's own question
    {cue}               A:

and the completion of the last block is what the teacher writes. No space follows the last cue: a
model continues a text better where its own tokens begin with the space. `sbs_jax/teacher/prompts`
holds the files of the built-in datasets; docs/annotate.md describes every field.
"""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any, Literal, get_args

from sbs_jax.datasets import completions
from sbs_jax.datasets.records import SEPARATOR, Record
from sbs_jax.errors import UserError
from sbs_jax.metrics import accuracy
from sbs_jax.teacher import labels as answers
from sbs_jax.teacher import prompt_files
from sbs_jax.teacher.labels import Kind

FOLDER = Path(__file__).parent / "prompts"

Mode = Literal["few_shot", "zero_shot"]

SYSTEM = "Continue the text in exactly the same format. Write only what comes next, then stop."


@dataclasses.dataclass(frozen=True, slots=True)
class Exemplar:
    """A question with the answer the teacher is shown; `input` has the form of `Record.input`."""

    input: str
    rationale: str
    label: str


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One dataset's prompt.

    Attributes:
        name: the file's name without ``.json``.
        question: the question's text; ``{field}`` for each of `fields`.
        cue: the start of the answer; the prompt ends with it.
        completion: an exemplar's answer, with ``{rationale}`` and ``{answer}``.
        given: the line that gives the answer when only an explanation is wanted (``{answer}``).
        instruction: opens a zero-shot prompt, which has no exemplars.
        fields: the parts of an input, in order; several are split at `records.SEPARATOR`.
        newline: what a line break inside a field becomes.
        answer: the kind of label (see `answers`); `labels` lists them for the kind ``labels``.
        parser: the name of the exact parser in `completions.PARSERS`.
        metric: how a label is compared with gold (see `metrics.is_correct`).
        stop: where a completion ends; sent to the server, and cut here where it is ignored.
        max_tokens: the budget of one completion.
        as_json: exemplars answer with a JSON object (see `structured`).
    """

    name: str
    question: str
    cue: str
    completion: str
    given: str
    instruction: str
    fields: tuple[str, ...]
    answer: Kind
    parser: str
    stop: tuple[str, ...]
    max_tokens: int
    exemplars: tuple[Exemplar, ...]
    labels: tuple[str, ...] = ()
    metric: accuracy.Name = "text"
    newline: str = "\n"
    separator: str = "\n\n"
    system: str = SYSTEM
    about: str = ""
    as_json: bool = False

    def parse(self, text: str) -> tuple[str, str]:
        """Reads a completion that keeps the format, with the exact parser."""
        return completions.PARSERS[self.parser](text)

    def write_completion(self, exemplar: Exemplar) -> str:
        """The completion in the format: what a perfect teacher would have written."""
        answer = answers.shown(self.answer, exemplar.label, exemplar.input)
        if self.as_json:
            fields = {"rationale": exemplar.rationale, "answer": answer}
            return json.dumps(fields, ensure_ascii=False)
        return _fill(self.completion, {"rationale": exemplar.rationale, "answer": answer})

    def render(self, record: Record, mode: Mode = "few_shot", label_given: bool = False) -> str:
        """The prompt's text for one record; with `label_given` it contains the record's gold label.

        Raises UserError (record id) where the input lacks a field or its label is not a choice.
        """
        start = [self.instruction] if mode == "zero_shot" else list(_worked(self, label_given))
        own = self._block(record.input, record.label, label_given, f"record {record.id}")
        return self.separator.join([*start, own])

    def messages(self, text: str) -> list[dict[str, str]]:
        """The same text for a chat model: one user message under a short system line."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": text}]

    def _block(self, text: str, label: str, label_given: bool, where: str) -> str:
        """One block up to its cue."""
        lines = [_fill(self.question, self._parts(text, where))]
        if label_given:
            answer = answers.shown(self.answer, label, text)
            if not label.strip():
                raise UserError(f"{where}: has no gold label to give; leave --label_given out")
            if not answer:
                raise UserError(f"{where}: label {label!r} is none of the choices of its input")
            lines.append(_fill(self.given, {"answer": answer}))
        return "\n".join([*lines, self.cue])

    def _parts(self, text: str, where: str) -> dict[str, str]:
        parts = text.split(SEPARATOR) if len(self.fields) > 1 else [text]
        if len(parts) != len(self.fields):
            raise UserError(
                f"{where}: its input has {len(parts)} parts, the prompt {self.name} needs "
                f"{len(self.fields)} ({', '.join(self.fields)}) with {SEPARATOR} between them"
            )
        lines = (self.newline.join(part.strip().splitlines()) for part in parts)
        return dict(zip(self.fields, lines, strict=True))


@functools.lru_cache(maxsize=8)  # a run renders one or two prompts half a million times
def _worked(prompt: Prompt, label_given: bool) -> tuple[str, ...]:
    """The exemplars' blocks with their completions."""
    blocks = []
    for number, shown in enumerate(prompt.exemplars, start=1):
        where = f"prompt {prompt.name}: exemplar {number}"
        block = prompt._block(shown.input, shown.label, label_given, where)
        blocks.append(f"{block} {prompt.write_completion(shown)}")
    return tuple(blocks)


def names() -> list[str]:
    """The datasets whose prompt is in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> Prompt:
    """The prompt of a built-in dataset, or of a JSON or YAML file given by its path.

    Raises UserError, naming file and field, for a file that is not a complete prompt or holds an
    exemplar that its own parser does not read back.
    """
    own = name.endswith(prompt_files.SUFFIXES)
    path = Path(name) if own else FOLDER / f"{name}.json"
    if not path.is_file():
        raise UserError(
            f"{name}: no such prompt; built-in: {', '.join(names())}; "
            "for another dataset give the path of its .json or .yaml file"
        )
    prompt = _build(path, _read(path))
    _check(path, prompt)
    return prompt


def _read(path: Path) -> dict[str, Any]:
    fields = prompt_files.read(path)
    like = fields.pop("like", None)
    if like is None:
        return fields
    if not isinstance(like, str) or like not in names():
        raise UserError(f"{path}: field 'like' must be one of {', '.join(names())}")
    return _read(FOLDER / f"{like}.json") | fields


_TEXTS = ("question", "cue", "completion", "given", "instruction", "parser")
_OPTIONAL_TEXTS = ("metric", "newline", "separator", "system", "about")
_LISTS = ("fields", "stop", "labels")


def _build(path: Path, fields: dict[str, Any]) -> Prompt:
    known = {f.name for f in dataclasses.fields(Prompt)} - {"name", "as_json"}
    for name in fields.keys() - known:
        raise UserError(f"{path}: unknown field {name!r}; known: {', '.join(sorted(known))}")
    required = {*_TEXTS, "fields", "answer", "stop", "max_tokens", "exemplars"}
    for name in sorted(required - fields.keys()):
        raise UserError(f"{path}: field {name!r} is missing")
    for name in (*_TEXTS, *_OPTIONAL_TEXTS):
        if not isinstance(fields.get(name, ""), str):
            raise UserError(f"{path}: field {name!r} must be text")
    for name in _LISTS:
        value = fields.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise UserError(f"{path}: field {name!r} must be a list of texts")
    if not isinstance(fields["max_tokens"], int) or fields["max_tokens"] < 1:
        raise UserError(f"{path}: field 'max_tokens' must be a whole number above 0")
    for name, allowed in _ENUMS.items():
        if fields.get(name, allowed[0]) not in allowed:
            raise UserError(f"{path}: field {name!r} must be one of {', '.join(allowed)}")
    lists = {name: tuple(fields.get(name, ())) for name in _LISTS}
    exemplars = _exemplars(path, fields["exemplars"])
    return Prompt(**fields | lists | {"name": path.stem, "exemplars": exemplars})


_ENUMS = {
    "answer": get_args(Kind),
    "metric": accuracy.METRICS,
    "parser": tuple(completions.PARSERS),
}


def _exemplars(path: Path, rows: Any) -> tuple[Exemplar, ...]:
    wanted = {field.name for field in dataclasses.fields(Exemplar)}
    if not isinstance(rows, list):
        raise UserError(f"{path}: field 'exemplars' must be a list")
    for number, row in enumerate(rows, start=1):
        texts = isinstance(row, dict) and all(isinstance(value, str) for value in row.values())
        if not texts or row.keys() != wanted:
            raise UserError(
                f"{path}: exemplar {number} must hold the texts {', '.join(sorted(wanted))}"
            )
    return tuple(Exemplar(**row) for row in rows)


def _check(path: Path, prompt: Prompt) -> None:
    """Every template must be fillable and every exemplar must survive its own parser."""
    _check_places(path, "question", prompt.question, set(prompt.fields))
    _check_places(path, "completion", prompt.completion, {"rationale", "answer"})
    _check_places(path, "given", prompt.given, {"answer"})
    if prompt.answer == "labels" and not prompt.labels:
        raise UserError(f"{path}: field 'labels' must list the labels")
    for number, exemplar in enumerate(prompt.exemplars, start=1):
        if not answers.shown(prompt.answer, exemplar.label, exemplar.input):
            raise UserError(f"{path}: exemplar {number}: its label is none of its choices")
        if prompt.labels and exemplar.label not in prompt.labels:
            raise UserError(f"{path}: exemplar {number}: label {exemplar.label!r} is not in labels")
        read = prompt.parse(prompt.write_completion(exemplar))
        if read != (exemplar.rationale, exemplar.label):
            raise UserError(
                f"{path}: exemplar {number} does not read back: parser {prompt.parser} found "
                f"rationale {read[0]!r} and label {read[1]!r}"
            )
    for label_given in (False, True):
        _worked(prompt, label_given)


_PLACE = re.compile(r"\{(\w+)\}")


def _check_places(path: Path, name: str, template: str, wanted: set[str]) -> None:
    places = set(_PLACE.findall(template))
    if places != wanted:
        expected = ", ".join(f"{{{place}}}" for place in sorted(wanted))
        raise UserError(f"{path}: field {name!r} must hold {expected} and no other place")


def _fill(template: str, values: dict[str, str]) -> str:
    # Not str.format: a question may hold braces, and one pass never fills what was filled in.
    return _PLACE.sub(lambda place: values[place[1]], template)
