"""Parses the response of any OpenAI-like server into a reply with fields of known types.

Servers differ in every field: content as a list of parts, a finish reason that is an object, usage
as text. This is the one place that reads a body; what cannot be read raises `Unreadable`, and what
is no answer (an error in place of a completion, an empty text) says so in `Choice.problem`.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from typing import Any

from sbs_jax.teacher import server_errors, thoughts

_THOUGHT_TYPE = re.compile(r"think|thought|reason|summary")
_TEXT_KEYS = ("text", "content", "output_text", "value")
_THOUGHT_KEYS = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "reasoning_details",
    "thinking_blocks",
)
_TOKEN_KEYS = ("token", "logprob")
_BROKEN = "the stream broke off"
_TOKENS = {
    "prompt_tokens": ("prompt_tokens", "input_tokens"),
    "completion_tokens": ("completion_tokens", "output_tokens"),
}
# How a generation ends, in the words of OpenAI, Gemini, Anthropic, Cohere, TGI, vLLM, sglang,
# DeepSeek, as parts of the word; the first table that fits counts.
_FAILED = re.compile(
    r"error|abort|cancel|fail|time_?out|disconnect|preempt|insufficient|malformed|unexpected"
    r"|rate_limit|overload|unload|interrupt|^other$|^language$"
)
_FILTERED = re.compile(
    r"filter|safety|recitation|prohibited|block|spii|sensitive|toxic|moderation|guardrail|policy"
    r"|flagged|violation"
)
_CUT = re.compile(r"length|limit|^max_|truncated?|truncation|incomplete|context|repetition")
_ANSWER_KEYS = ("answer", "label")
_STOPPED = """; if a stop string ended them, --request_json='{"stop": null}' sends none"""


class Unreadable(Exception):
    """A body without a completion; the message says what it holds instead."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One completion.

    Attributes:
        text: the answer as written, thoughts between marks included.
        finish_reason: the server's word for why it ended, or None.
        thoughts: what the server gives apart as the model's thoughts.
        refusal: the model's words where it refuses to answer.
        error: the server's words where it failed in the middle.
        tokens: (token, log probability) of the text, where the server gives them.
    """

    text: str
    finish_reason: str | None = "stop"
    thoughts: str = ""
    refusal: str = ""
    error: str = ""
    tokens: tuple[tuple[str, float], ...] = ()

    @property
    def problem(self) -> str:
        """Why this is no answer, or "" where it is one.

        A refusal is an answer, and so is a text that the token budget ended, however short.
        """
        reason = _folded(self.finish_reason)
        if self.error or _FAILED.search(reason):
            return f"the server gave up: {self.error or f'finish_reason {self.finish_reason}'}"
        if _FILTERED.search(reason):
            return f"the server's filter withheld the answer (finish_reason {self.finish_reason})"
        if self.refusal or is_cut(self.finish_reason):
            return ""
        aloud, answer = thoughts.split(self.text)
        if answer:
            return ""
        if not (aloud or self.thoughts):
            return f"an empty answer (finish_reason {self.finish_reason})"
        # https://github.com/vllm-project/vllm/issues/38499
        advice = _STOPPED if reason == "stop" else ""
        return (
            "an empty answer, all of it is in the model's thoughts "
            f"(finish_reason {self.finish_reason}){advice}"
        )

    @property
    def ran_out(self) -> bool:
        """Whether the token budget ended the completion before its answer began."""
        return is_cut(self.finish_reason) and not thoughts.split(self.text)[1]


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The completions of one successful call.

    Attributes:
        choices: at least one; perhaps fewer than asked.
        usage: prompt_tokens and completion_tokens as the server counts them, or empty.
        attempts: HTTP calls made, retries included.
        sent: the request as it went out, where the client had to change it.
    """

    choices: tuple[Choice, ...]
    model: str = ""
    usage: Mapping[str, int] = dataclasses.field(default_factory=dict)
    response_id: str = ""
    attempts: int = 1
    sent: Mapping[str, Any] | None = None


def is_cut(finish_reason: str | None) -> bool:
    """Whether the token budget ended the completion."""
    reason = _folded(finish_reason)
    gone = _FAILED.search(reason) or _FILTERED.search(reason)
    return not gone and bool(_CUT.search(reason))


def finish_of(value: Any) -> str | None:
    """A finish reason of any JSON type as text: an object's ``type``, else its words."""
    if isinstance(value, dict):
        return finish_of(next((value[k] for k in ("type", "reason", "name") if k in value), None))
    if isinstance(value, list):
        return finish_of(value[0] if value else None)
    return value if isinstance(value, str | None) else str(value)


def read_response(body: Any, attempts: int = 1) -> Reply:
    """The reply in a response body of either API.

    Raises Unreadable for a body that is no completion.
    """
    if isinstance(body, list):
        body = _joined(body)
    if not isinstance(body, dict):
        raise Unreadable(server_errors.words(body) or f"it is {_kind(body)}")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Unreadable(server_errors.words(body) or "no choices in it")
    return Reply(
        choices=tuple(map(_choice, choices)),
        model=_plain(body.get("model")),
        usage=usage_of(body.get("usage")),
        response_id=_plain(body.get("id")),
        attempts=attempts,
    )


def usage_of(value: Any) -> dict[str, int]:
    """The token counts that are counts."""
    counts: dict[str, int] = {}
    for name, spellings in _TOKENS.items():
        for spelling in spellings if isinstance(value, dict) else ():
            count = _count(value.get(spelling))
            if count is not None:
                counts.setdefault(name, count)
    return counts


def text_of(content: Any) -> dict[str, str]:
    """The fields of a journal's line for a content that is not plain text.

    Raises Unreadable for one that holds no text.
    """
    if content is None:
        raise Unreadable("no content")
    text, aloud = _content(content)
    return {"text": text, "thoughts": aloud}


def problem_of(row: Mapping[str, Any]) -> str:
    """`Choice.problem` of a journal's line; completions imported as they are have none."""
    if "params" not in row:
        return ""
    if row.get("finish_reason") == "stop" and thoughts.split(row["text"])[1]:
        return ""  # nearly all lines of a journal
    finish = finish_of(row.get("finish_reason"))
    return Choice(row["text"], finish, refusal=_plain(row.get("refusal"))).problem


def _joined(events: list[Any]) -> Any:
    """The chunks of a stream, which some servers send unasked, as one body."""
    chunks = [event for event in events if isinstance(event, dict)]
    joined: dict[Any, dict[str, Any]] = {}
    whole: dict[str, Any] = {}
    for chunk in chunks:
        whole |= {name: value for name, value in chunk.items() if value is not None}
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                _extend(joined.setdefault(str(choice.get("index")), {"message": {}}), choice)
    for choice in joined.values():
        if "finish_reason" not in choice:
            choice.setdefault("error", _BROKEN)
    return whole | {"choices": list(joined.values())} if joined else events


def _extend(joined: dict[str, Any], choice: dict[str, Any]) -> None:
    """Adds a chunk's choice to what came before it."""
    delta = choice.get("delta")
    pieces = delta if isinstance(delta, dict) else {"content": choice.get("text")}
    for name, piece in pieces.items():
        if isinstance(piece, str):
            joined["message"][name] = joined["message"].get(name, "") + piece
    joined |= {k: choice[k] for k in ("finish_reason", "error") if choice.get(k) is not None}


def _choice(choice: Any) -> Choice:
    if not isinstance(choice, dict):
        raise Unreadable(f"a choice is a {_kind(choice)}")
    message = _message(choice)
    text, aloud = _content(message.get("content"))
    text = text or _called(message)
    apart = [_thought(message.get(key)) for key in _THOUGHT_KEYS]
    refusal = _content(message.get("refusal"))[0] or _refusal_part(message.get("content"))
    finish = _finish(choice)
    if not text and _folded(finish) == "refusal":
        refusal = refusal or "refusal"
    return Choice(
        text=text,
        finish_reason=finish,
        thoughts="\n".join(dict.fromkeys(filter(str.strip, [*apart, aloud]))),
        refusal=refusal,
        error=server_errors.words(choice.get("error") or message.get("error")),
        tokens=_tokens(choice.get("logprobs")),
    )


def _message(choice: Mapping[str, Any]) -> dict[str, Any]:
    """The message of a choice, wherever a server puts it."""
    messages = choice.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    message = choice.get("message") or choice.get("delta") or last
    if not isinstance(message, dict):
        return {"content": choice.get("text") if message is None else message}
    return (
        message if message.get("content") is not None else message | {"content": choice.get("text")}
    )


def _finish(choice: Mapping[str, Any]) -> str | None:
    """The finish reason; where a gateway hides a failure behind "stop", its own server's word."""
    native = finish_of(choice.get("native_finish_reason"))
    hidden = any(table.search(_folded(native)) for table in (_FAILED, _FILTERED, _CUT))
    return native if hidden else finish_of(choice.get("finish_reason"))


def _called(message: Mapping[str, Any]) -> str:
    """The arguments of a tool that a model called to give its answer, or ""."""
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) else []
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    for function in [*functions, message.get("function_call")]:
        arguments = function.get("arguments") if isinstance(function, dict) else None
        value = server_errors.parsed(arguments) if isinstance(arguments, str) else arguments
        if isinstance(value, dict) and any(key in value for key in _ANSWER_KEYS):
            return json.dumps(value, ensure_ascii=False)
    return ""


def _tokens(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """The tokens in the shape of the chat API (``content``) or of the completions API."""
    if not isinstance(logprobs, dict):
        return ()
    content = logprobs.get("content")
    pairs: list[Any] = [logprobs.get("tokens"), logprobs.get("token_logprobs")]
    if isinstance(content, list):
        pairs = [[part.get(n) for part in content if isinstance(part, dict)] for n in _TOKEN_KEYS]
    if not all(isinstance(column, list) for column in pairs):
        return ()
    rows = list(zip(*pairs, strict=False))
    usable = all(isinstance(t, str) and isinstance(p, int | float) for t, p in rows)
    return tuple((token, min(0.0, float(value))) for token, value in rows) if usable else ()


def _content(value: Any) -> tuple[str, str]:
    """(Text, thoughts) of a content: text, a part, or a list of parts."""
    if value is None or isinstance(value, str):
        return value or "", ""
    if isinstance(value, list):
        parts = [_content(part) for part in value]
        return "".join(text for text, _ in parts), "".join(aloud for _, aloud in parts)
    if not isinstance(value, dict):
        raise Unreadable(f"its content is a {_kind(value)}, not text")
    if _THOUGHT_TYPE.search(str(value.get("type"))) or value.get("thought") is True:
        return "", _thought(value)
    for key in _TEXT_KEYS:
        if key in value:
            return _content(value[key])
    if isinstance(value.get("parts"), list):  # Gemini's
        return _content(value["parts"])
    # A structured answer that the server has decoded is read as the JSON it was.
    return ("", "") if "type" in value else (json.dumps(value, ensure_ascii=False), "")


def _thought(value: Any) -> str:
    """All text in a part that holds thoughts."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(map(_thought, value))
    if isinstance(value, dict):
        keys = (*_TEXT_KEYS, *_THOUGHT_KEYS, "summary")
        return "".join(_thought(value[key]) for key in keys if key in value)
    return ""


def _refusal_part(content: Any) -> str:
    parts = content if isinstance(content, list) else []
    texts = (part.get("refusal") for part in parts if isinstance(part, dict))
    return " ".join(text for text in texts if isinstance(text, str))


def _count(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53
    return int(value) if usable else None


def _folded(finish_reason: str | None) -> str:
    """``FINISH_REASON_MAX_TOKENS``, ``maxTokens``, ``max-tokens`` -> ``max_tokens``."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s-]+", "_", (finish_reason or "").strip())
    return words.casefold().removeprefix("finish_reason_")


def _plain(value: Any) -> str:
    return "" if value is None else str(value)[:200]


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")
