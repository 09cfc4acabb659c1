"""The exact request of a record and its key.

A key is the SHA-256 of the whole request (everything the model receives, and its name) and
the number of the sample. Nothing else goes into it: not the record's id, the address of the
server, the shard, or whether the answer comes from a batch. So equal inputs are asked once, and an
answer is found again whichever way it came.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.teacher import structured
from sbs_jax.teacher.prompts import Mode, Prompt

Api = Literal["chat", "completions"]

CHARACTERS_PER_TOKEN = 4  # English text under common vocabularies; an estimate, said to be one


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One prompt to send: `body` holds everything but the number of samples.

    Attributes:
        input: the record's question; ids alone may be equal in two splits.
    """

    id: str
    sha: str
    body: dict[str, Any]
    prompt_sha: str
    prompt_tokens: int
    input: str = ""

    @property
    def record(self) -> tuple[str, str]:
        """(Id, question) of the record, the same in every pass."""
        return self.id, self.input

    def key(self, sample: int) -> str:
        """The journal's key of one sample's answer."""
        return answer_key(self.sha, sample)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How records become requests.

    Attributes:
        extra: further fields of the request, e.g. ``{"top_p": 0.9}``; None removes a field.
        structured: the server is asked to enforce a JSON object; `prompt` then shows such.
    """

    prompt: Prompt
    model: str
    api: Api = "chat"
    mode: Mode = "few_shot"
    label_given: bool = False
    temperature: float = 0.0
    max_tokens: int = 128
    extra: tuple[tuple[str, Any], ...] = ()
    structured: bool = False

    def request(self, record: Record) -> Request:
        """Raises UserError where the record does not fit the prompt."""
        text = self.prompt.render(record, self.mode, self.label_given)
        try:
            prompt_sha = hashlib.sha256(text.encode()).hexdigest()
        except UnicodeEncodeError:
            raise UserError(
                f"record {record.id}: its text holds half a character (a lone surrogate); fix it"
            ) from None
        body: dict[str, Any] = {"model": self.model, **self.parameters()}
        if self.structured:
            body |= structured.field(self.prompt, record)
        if self.api == "chat":
            body["messages"] = self.prompt.messages(text)
        else:
            body["prompt"] = text
        return Request(
            id=record.id,
            sha=_sha(body),
            body=body,
            prompt_sha=prompt_sha,
            prompt_tokens=len(text) // CHARACTERS_PER_TOKEN + 1,
            input=record.input,
        )

    def parameters(self) -> dict[str, Any]:
        """The decoding parameters as sent."""
        wanted = {
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "stop": list(self.prompt.stop),
        } | dict(self.extra)
        return {name: value for name, value in wanted.items() if value is not None}

    def settings(self) -> dict[str, Any]:
        """The settings that decide every request; a folder of answers belongs to one such set."""
        prompt = self.prompt
        parts = ("question", "cue", "completion", "given", "instruction", "separator", "newline")
        frame = {name: getattr(prompt, name) for name in parts}
        frame["exemplars"] = [dataclasses.asdict(shown) for shown in prompt.exemplars]
        if self.api == "chat":
            frame["system"] = prompt.system
        return {
            "task": prompt.name,
            "model": self.model,
            "api": self.api,
            "mode": self.mode,
            "label_given": self.label_given,
            **({"structured": True} if self.structured else {}),
            **{f"request.{name}": value for name, value in self.parameters().items()},
            **{f"prompt.{name}": value for name, value in frame.items()},
        }


def unique(recipe: Recipe, records: Iterable[Record]) -> Iterator[Request]:
    """The requests of the records, equal ones once (under the first record's id)."""
    seen: set[bytes] = set()
    for record in records:
        request = recipe.request(record)
        digest = bytes.fromhex(request.sha)
        if digest not in seen:
            seen.add(digest)
            yield request


def answer_key(sha: str, sample: int) -> str:
    """The journal's key for an answer to the request `sha`."""
    return f"{sha}-{sample}"


def _sha(body: dict[str, Any]) -> str:
    canonical = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
