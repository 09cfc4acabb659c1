"""The server's words in an error of any shape, and the kind of failure.

OpenAI writes ``{"error": {"message", "code", "param"}}``; others write the text itself under
``error``, ``detail`` (FastAPI, also as a list of objects with ``loc`` and ``msg``) or ``message``,
wrap all of it in a list (Gemini), or hide the cause in ``metadata.raw`` (OpenRouter).
"""

import json
import re
from collections.abc import Iterable
from typing import Any, Literal

Kind = Literal["key", "spent", "model", "too_long", "filtered", "request", "busy", "other"]

# Python converts no whole number of more than 4,300 digits.
_LONG_NUMBERS = json.JSONDecoder(parse_int=lambda d: int(d) if len(d) < 4300 else float(d))
_MOST_CHARACTERS = 300
_KEYS = (
    *("message", "msg", "error", "errors", "detail", "details", "error_description", "reason"),
    *("title", "description", "metadata", "raw", "text", "innererror", "status_msg"),
)

_SPENT = re.compile(
    r"insufficient[ _](?:quota|balance|credit|funds)|balance is (?:insufficient|too low)"
    r"|not enough (?:credit|balance|funds)|credits? (?:is|are|has been|have been)? ?exhausted"
    r"|out of credit|exceeded[ _]your[ _]current[ _]quota|exceeded_current_quota"
    r"|billing[ _]hard[ _]limit|payment[ _](?:required|method)|arrearage|unpaid"
    r"|(?:key|spend(?:ing)?|budget|credit|monthly) limit (?:exceeded|reached)"
    r"|over budget|budget.{0,30}exceeded|exceed\w*.{0,20}budget"
    r"|(?:hit|reach\w*) (?:your|its|the) (?:specified )?(?:api |monthly |daily )?"
    r"(?:usage|spend(?:ing)?) limits?|used all available credit|(?:requires|purchase) more credit"
    r"|(?:usage credits|extra usage) (?:are|is) required|can only afford|overdue|account suspended"
    r"|account\b.{0,40}\bis suspended|please (?:recharge|top up)|余额不足|余额不够|欠费"
)
# A quota by the minute comes back by itself.
_PASSING = ("retrydelay", "retry_delay", "perminute", "per minute", "per_minute", "persecond")
_CONTEXT = r"context[ _](?:length|window|size|limit)"
_TOO_LONG = re.compile(
    rf"{_CONTEXT}|maximum context|max_model_len|maximum (?:prompt|input|model) length|too long"
    r"|too large for|too many tokens|exceeds the model|string_above_max_length|token count"
    r"|reduce the length|longer than the|range of input length|`inputs` (?:tokens|must)"
    r"|token limit|(?:prompt|input|request|messages?)\b.{0,60}\bexceed|tokens_limit_reached"
)
_FILTERED = (
    "content_filter",
    "content filter",
    "content_policy",
    "content policy",
    "content management policy",
    "moderation",
    "flagged",
    "responsibleai",
    "data_inspection_failed",
    "safety",
)
_NO_MODEL = re.compile(
    r"model_not_found|invalid_model|unknown model|no such model|pinned|not a valid model"
    r"|model not exist|model identifier is invalid|unable to access model|failed to load model"
    r"|decommissioned|model\b.{0,120}\b(?:does not exist|not found"
    r"|is not (?:available|loaded|served)|does not support (?:chat|completion))"
    r"|(?:invalid|unsupported) model\b"
    r"|model\W+\S+\W+(?:has been|is|was) (?:retired|deprecated|discontinued)",
)
_KEY = re.compile(
    r"api[ _]?key (?:is )?(?:not valid|invalid|expired|missing|required)|(?:invalid|no|missing) api"
    r"[ _]?key|unauthenticated|unauthorized|authentication_error|location is not supported"
)
_REFUSES = re.compile(
    r"unsupported|not support|not allowed|not permitted|unexpected|unknown|unrecogni[sz]ed|invalid"
    r"|extra (?:inputs|fields)|not implemented|must be|should be|cannot be|deprecated|use '"
    r"|incompatible",
    re.IGNORECASE,
)
# Words of English as well as fields: they count only where the server quotes or lists them.
_COMMON = frozenset({"n", "model", "stop", "user", "messages", "prompt", "tools", "store", "echo"})


def words(value: Any) -> str:
    """The text of an error, in one line; "" without an error.

    Where no known field holds the text, all of the JSON is shown.
    """
    texts = dict.fromkeys(_texts(value))
    if not texts and _says(value):
        return _short(json.dumps(value, ensure_ascii=False))
    return _short("; ".join(texts))


def _says(value: Any) -> bool:
    """Whether anything in a value is more than null, false, 0 or blank."""
    if isinstance(value, dict):
        return any(map(_says, value.values()))
    return any(map(_says, value)) if isinstance(value, list) else bool(value)


def parsed(text: str) -> Any:
    """The JSON value of a body, else the events of a stream, else the text without HTML tags."""
    text = re.sub(r"\A\ufeff?(?::.*\s+)*", "", text)  # a mark; comments that keep a line alive
    for decode in (json.loads, _LONG_NUMBERS.decode):
        try:
            return decode(text)
        except ValueError:
            continue
        except RecursionError:
            return "JSON that nests too deeply"
    events = re.findall(r"^data:\s*(\{.*\})\s*$", text, re.MULTILINE)
    if events:
        return [parsed(event) for event in events]
    return re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL).strip()


def kind(status: int, body: Any) -> Kind:
    """The kind of failure behind a status and its body."""
    text = _flat(body)
    if status == 402 or (status < 500 and _SPENT.search(text) and not _passes(text)):
        return "spent"
    if status == 413 or (status in (400, 422) and _TOO_LONG.search(text)):
        return "too_long"
    if status == 500 and re.search(_CONTEXT, text):  # of older llama.cpp
        return "too_long"
    if status in (400, 403, 422, 451) and _any(_FILTERED, text):
        return "filtered"
    if status in (401, 403, 407) or (status in (400, 422) and _KEY.search(text)):
        return "key"
    if status in (404, 405, 410) or (status in (400, 422) and _NO_MODEL.search(text)):
        return "model"
    if status in (400, 422):
        return "request"
    return "busy" if status in (408, 409, 429) or status >= 500 else "other"


def status_in(body: Any) -> int | None:
    """The status of an error that came in place of an answer, with status 200; None for an answer.

    The error's own code counts where it is one; any other error is a gateway's (502).
    """
    error = _error_in(body)
    if error is None:
        return None
    for name in ("code", "status", "status_code", "type"):
        code = error.get(name) if isinstance(error, dict) else None
        if isinstance(code, str) and code.isdecimal():
            code = int(code)
        if isinstance(code, int) and 400 <= code < 600:
            return code
        if isinstance(code, str) and re.search("rate.?limit|too.?many", code, re.IGNORECASE):
            return 429
    return 402 if kind(400, body) == "spent" else 502


def retry_seconds(body: Any) -> str | None:
    """The pause that a body asks for: ``{"retryDelay": "34s"}``, ``try again in 34s`` -> ``34``."""
    match = re.search(
        r'(?:"retryDelay": "|(?:try again|retry) (?:in|after) )(\d+(?:\.\d+)?) ?s', _json(body)
    )
    return match[1] if match else None


def named_fields(body: Any, fields: Iterable[str]) -> list[str]:
    """The fields of a request that its refusal names, the most certain first."""
    known = list(fields)
    pointed = [str(name) for name in _pointed(body)]
    certain = [name for name in known if name in pointed]
    if certain:
        return certain
    text = words(body)
    quoted = [f for f in known if re.search(rf"""['"`\[(]{_spelt(f)}['"`\])=:]""", text)]
    if quoted:
        return quoted
    bare = [f for f in known if re.search(rf"(?<!\w){_spelt(f)}(?!\w)", text, re.IGNORECASE)]
    certain = [f for f in bare if f not in _COMMON]
    return certain or [f for f in bare if f == "stop" and _REFUSES.search(text)]


def _spelt(field: str) -> str:
    """A pattern of a field's name in any spelling: ``maxTokens``, ``stop_sequences``."""
    words = "[_ ]?".join(
        f"[{part[0].upper()}{part[0]}]{re.escape(part[1:])}" for part in field.split("_") if part
    )
    return words + (r"(?:[_ ]?[Ss]equences?)?" if field == "stop" else "")


def _error_in(body: Any) -> Any:
    """The error that a body holds instead of completions, or None."""
    if isinstance(body, list):
        return next(filter(None, map(_error_in, body)), None)
    if not isinstance(body, dict):
        return None
    named = [body.get("error"), body.get("errors")]
    choices = body.get("choices")
    if not isinstance(choices, list):
        named.append(body.get("base_resp"))  # MiniMax: its status is not HTTP's
    wrong = next(filter(_says, named), None)
    if wrong or not isinstance(choices, list) or not choices:
        bare = body.get("object") == "error" or "detail" in body
        return wrong or (body if bare else None)
    errors = [choice.get("error") for choice in choices if isinstance(choice, dict)]
    return errors[0] if len(errors) == len(choices) and all(errors) else None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        inner = parsed(value) if value[:1] in ("{", "[") else value
        return _texts(inner) if isinstance(inner, dict | list) else [value] * bool(value.strip())
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    if not isinstance(value, dict):
        return []
    value = {str(key).casefold(): item for key, item in value.items()}
    texts = [text for key in _KEYS if key in value for text in _texts(value[key])]
    place = ".".join(map(str, value["loc"])) if isinstance(value.get("loc"), list) else ""
    return [f"{place}: {text}" if place else text for text in texts]


def _pointed(value: Any) -> list[Any]:
    """What ``param`` or the last of ``loc`` names, wherever they are."""
    if isinstance(value, list):
        return [name for item in value for name in _pointed(item)]
    if not isinstance(value, dict):
        return []
    own = [value["param"]] if isinstance(value.get("param"), str) else []
    loc = value.get("loc")
    own += loc if isinstance(loc, list) else []
    return own + [name for item in value.values() for name in _pointed(item)]


def _passes(text: str) -> bool:
    return _any(_PASSING, text) and "perday" not in text


def _any(signs: Iterable[str], text: str) -> bool:
    return any(sign in text for sign in signs)


def _flat(body: Any) -> str:
    return _json(body).casefold()


def _json(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)


def _short(text: str) -> str:
    # Codes that steer a terminal are no words.
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 3] + "..."
