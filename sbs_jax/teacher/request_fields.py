"""Learns from refusals which fields of a request a server takes.

Models differ: some refuse ``max_tokens``, some any temperature, some a stop string or a system
line. A refusal of this kind would meet every question, so it is learned once per run: where
the field is a default the request changes and a line says so; a field that the user set stops the
run, with the flag that sends it.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from sbs_jax.teacher import server_errors, structured

# Field -> what takes its place; None drops it.
_SUBSTITUTES: dict[str, str | None] = {
    "max_tokens": "max_completion_tokens",
    "max_completion_tokens": "max_tokens",
    "temperature": None,
    "stop": None,
    "logprobs": None,
    "top_logprobs": None,
}
_FLAGS = {"model": "--model", "temperature": "--temperature", "n": "--n"}
_FLAGS |= {
    "reasoning_effort": "--effort",
    "max_tokens": "--max_tokens",
    "messages": "--api",
    "prompt": "--api",
}
_NO_SYSTEM = re.compile(
    r"system\W{0,3} ?(?:role|message|prompt|instruction)s?\b.{0,60}(?:not|un)\W?(?:support|allow)"
    r"|(?:not|n't|un)\W?support\w*.{0,60}\bsystem\b|developer instruction is not enabled"
    r"|roles must alternate|unexpected role\W+system",
    re.IGNORECASE,
)


@dataclasses.dataclass
class RequestFields:
    """The fields that one server refuses.

    Attributes:
        fixed: fields that the user set, each with its value; they are never changed.
        tell: receives one line for every change.
    """

    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tell: Callable[[str], None] = print
    _changes: dict[str, str | None] = dataclasses.field(default_factory=dict)
    _without_system: bool = False
    _form: int = -1  # of structured.FALLBACKS; -1 is OpenAI's own

    def applied(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The request as this server takes it."""
        request = dict(body)
        for name, substitute in self._changes.items():
            if name in request:
                value = request.pop(name)
                if substitute:
                    request.setdefault(substitute, value)
        schema = structured.schema_of(request)
        if self._form >= 0 and schema is not None and "response_format" not in self.fixed:
            del request["response_format"]
            request |= structured.FALLBACKS[self._form][1](schema)
        if self._without_system and isinstance(request.get("messages"), list):
            request["messages"] = _in_one_message(request["messages"])
        return request

    def learn(self, body: Any, request: Mapping[str, Any]) -> bool:
        """Takes in a refusal of `request`; whether the next request will differ from it."""
        text = server_errors.words(body)
        if self.refuses_system(text, request):
            self._without_system = True
            self.tell(f"the model takes no system line, it goes into the question ({text})")
            return True
        if self._next_form(body, request):
            return True
        for name in server_errors.named_fields(body, request):
            if self._may_change(name):
                self._change(name, request, text)
                return True
        return False

    def refuses_system(self, text: str, request: Mapping[str, Any]) -> bool:
        """Whether a failure is that of a chat template without a system line."""
        return bool(_NO_SYSTEM.search(text)) and _has_system(request.get("messages"))

    def refuses_structure(self, status: int, request: Mapping[str, Any]) -> bool:
        """Whether a failure may come from a server without support for schemas (HTTP 500)."""
        return (
            status in (500, 501)
            and self._form + 1 < len(structured.FALLBACKS)
            and (structured.schema_of(request) is not None and "response_format" not in self.fixed)
        )

    def _next_form(self, body: Any, request: Mapping[str, Any]) -> bool:
        """Switches to the next form of a structured answer if this one is refused."""
        forms = {"response_format", "guided_json"} & request.keys() - self.fixed.keys()
        text = server_errors.words(body).casefold()
        signs = ("response_format", "json_schema", "guided", "schema", "grammar", "json")
        if not forms or not any(sign in text for sign in signs):
            return False
        return self.next_form(text)

    def next_form(self, text: str) -> bool:
        """Takes the next form of a structured answer; False after the last."""
        if self._form + 1 >= len(structured.FALLBACKS):
            return False
        self._form += 1
        self.tell(
            f"the server refuses the schema, trying {structured.FALLBACKS[self._form][0]} ({text})"
        )
        return True

    def _may_change(self, name: str) -> bool:
        if name not in _SUBSTITUTES or name in self._changes:
            return False
        substitute = _SUBSTITUTES[name]
        if substitute in self._changes:
            return False  # refused already: nothing can bound the answer
        return bool(substitute) or name not in self.fixed

    def _change(self, name: str, request: Mapping[str, Any], text: str) -> None:
        substitute = _SUBSTITUTES[name]
        self._changes[name] = substitute
        instead = f"it is sent as {substitute}" if substitute else "it is left out"
        self.tell(f"the model refuses {name}={request[name]!r}, {instead} ({text})")

    def advice(self, body: Any, request: Mapping[str, Any]) -> str:
        """What to change where a refusal names fields that cannot be left out; "" for others."""
        named = server_errors.named_fields(body, {**request, **self._changes})
        named = [name for name in named if name not in ("messages", "prompt")]
        if not named:
            return ""
        sources = {substitute: name for name, substitute in self._changes.items() if substitute}
        named = [sources.get(name, name) for name in named]
        flags = ", ".join(self._flag(name) for name in named)
        without = dict(self.fixed) | dict.fromkeys(
            name for name in named if name not in ("model", "n")
        )
        return f"{flags}; change it, or try --request_json='{json.dumps(without)}'"

    def _flag(self, name: str) -> str:
        flags = [_FLAGS[name]] if name in _FLAGS else []
        if not flags or name in self.fixed:
            flags.append("--request_json")
        return f"{' or '.join(flags)} sends {name}"


def _has_system(messages: Any) -> bool:
    return isinstance(messages, list) and any(m.get("role") == "system" for m in messages)


def _in_one_message(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The system line put before the user's text."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [m for m in messages if m["role"] != "system"]
    return [rest[0] | {"content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]
