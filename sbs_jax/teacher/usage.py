"""Counts the tokens of a call, and checks that the server kept to the bound.

Servers count differently: llama.cpp's reports the tokens of one choice of n, others report
none. This module completes a count that is too small for the texts from their length and marks it
as an estimate, so that no cost is too low and looks exact.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from sbs_jax.teacher.replies import Reply
from sbs_jax.teacher.requests import CHARACTERS_PER_TOKEN, Request

_MOST_BYTES_PER_TOKEN = 6  # on average, in English; less in all other languages
_SURELY_BYTES_PER_TOKEN = 10
_ALLOWANCE = 1.5  # a count of one of two choices is half of what their texts take
_LONG_PROMPT = 300  # tokens; in a shorter one the frame of a chat weighs too much
_BOUNDS = ("max_tokens", "max_completion_tokens")


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; `estimated` where the server's count is missing or too small."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False

    def to_json(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }


def of(reply: Reply, request: Request) -> Usage:
    """The tokens of a call, completed from its texts where the server's count cannot be right."""
    sizes = _sizes(reply)
    counted = reply.usage.get("completion_tokens", 0)
    prompt = reply.usage.get("prompt_tokens", 0)
    expected = _as_in_the_prompt(reply, request, prompt)
    few = counted * _ALLOWANCE < expected or sum(sizes) > _MOST_BYTES_PER_TOKEN * counted
    if prompt and not few:
        return Usage(prompt, counted)
    texts = sum(math.ceil(size / CHARACTERS_PER_TOKEN) for size in sizes)
    return Usage(prompt or request.prompt_tokens, max(counted, texts, expected), estimated=True)


def _as_in_the_prompt(reply: Reply, request: Request, prompt: int) -> int:
    """Tokens of several choices if theirs are as long as those of the prompt; 0 if not known.

    The prompt holds exemplars in the same words, counted by the same server.
    """
    if len(reply.choices) < 2 or prompt < _LONG_PROMPT:
        return 0
    texts = sum(len(choice.text) + len(choice.thoughts) for choice in reply.choices)
    return math.ceil(texts * prompt / (request.prompt_tokens * CHARACTERS_PER_TOKEN))


def bound(body: Mapping[str, Any]) -> int:
    """The most tokens that a request allows one completion; 0 where it names no bound."""
    return min((body[name] for name in _BOUNDS if isinstance(body.get(name), int)), default=0)


def beyond_bound(reply: Reply, request: Request) -> str:
    """One line if a completion is longer than requested, "" otherwise."""
    sent = request.body if reply.sent is None else reply.sent
    names = [name for name in _BOUNDS if isinstance(sent.get(name), int)]
    if not names:
        return ""
    most = bound(sent) * len(reply.choices)
    sizes = _sizes(reply)
    tokens = max(reply.usage.get("completion_tokens", 0), sum(sizes) // _SURELY_BYTES_PER_TOKEN)
    if tokens <= most:
        return ""
    other = " or ".join(name for name in _BOUNDS if name not in names)
    return (
        f"warning: the server ignores {' and '.join(names)}: {tokens} tokens came where at most "
        f"{most} were asked for" + (f"; try {other} in --request_json" if other else "")
    )


def _sizes(reply: Reply) -> list[int]:
    return [_bytes(choice.text) + _bytes(choice.thoughts) for choice in reply.choices]


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def spent(row: Mapping[str, Any]) -> tuple[int, int]:
    """(Prompt, completion) tokens on a line of the journal."""
    counts = row.get("usage")
    if not counts or not isinstance(counts, dict):
        return 0, 0
    prompt, completion = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return (
        prompt if isinstance(prompt, int) else 0,
        completion if isinstance(completion, int) else 0,
    )
