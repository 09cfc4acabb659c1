"""Requests answers as JSON that the server's decoder enforces; makes the schema from the prompt."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from sbs_jax.datasets.records import Record
from sbs_jax.teacher import labels
from sbs_jax.teacher.prompts import Prompt

_INSTRUCTION = "Answer with one JSON object: rationale (text), then answer (the answer alone)."


def schema(prompt: Prompt, record: Record) -> dict[str, Any]:
    """The JSON schema of an answer: a rationale, and a label out of those that are possible."""
    options = labels.allowed(prompt.answer, prompt.labels, record.input)
    shown = [labels.shown(prompt.answer, option, record.input) for option in options]
    answer = {"type": "string", "enum": shown} if shown else {"type": "string"}
    return {
        "type": "object",
        "properties": {"rationale": {"type": "string"}, "answer": answer},
        "required": ["rationale", "answer"],
        "additionalProperties": False,
    }


def field(prompt: Prompt, record: Record) -> dict[str, Any]:
    """The request field in OpenAI's form."""
    wrapped = {"name": "answer", "strict": True, "schema": schema(prompt, record)}
    return {"response_format": {"type": "json_schema", "json_schema": wrapped}}


def prompt_for(prompt: Prompt) -> Prompt:
    """The prompt whose exemplars answer in this form."""
    instruction = f"{prompt.instruction} {_INSTRUCTION}"
    return dataclasses.replace(prompt, as_json=True, instruction=instruction)


# Where a server refuses OpenAI's form: llama-cpp-python and Together, vLLM, any with JSON alone.
FALLBACKS: tuple[tuple[str, Callable[[Any], dict[str, Any]]], ...] = (
    (
        "response_format of type json_object with a schema",
        lambda schema: {"response_format": {"type": "json_object", "schema": schema}},
    ),
    ("guided_json", lambda schema: {"guided_json": schema}),
    (
        "response_format of type json_object",
        lambda schema: {"response_format": {"type": "json_object"}},
    ),
    ("no schema, only the prompt's own examples of JSON", lambda schema: {}),
)


def schema_of(request: Mapping[str, Any]) -> Any:
    """The schema that a request asks for in OpenAI's form, or None."""
    form = request.get("response_format")
    wrapped = form.get("json_schema") if isinstance(form, dict) else None
    return wrapped.get("schema") if isinstance(wrapped, dict) else None
