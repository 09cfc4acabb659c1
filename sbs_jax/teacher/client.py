"""One call to an OpenAI-compatible server, and what its failures mean.

The openai SDK does the HTTP: it retries 408, 409, 429, 5xx, time-outs and dropped connections
with backoff and obeys Retry-After. Added here: quirks of servers that only resemble OpenAI's (an
ignored ``n``, bodies without choices), and the sorting of failures into

* `Stop`: no further call can succeed (wrong key, spent quota, unknown model);
* `TooLong`: this prompt does not fit the model;
* `Failed`: this call did not succeed; a later run may.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.teacher.requests import Api

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

_MALFORMED_TRIES = 3
_TOO_LONG = (
    "context_length",
    "context length",
    "context window",
    "maximum context",
    "too long",
    "too many tokens",
    "exceeds the model",
    "string_above_max_length",
)


class Stop(Exception):
    """No further call can succeed."""


class TooLong(Exception):
    """The prompt does not fit into the model's context."""


class Failed(Exception):
    """The call did not succeed, after all retries."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The completions of one successful call.

    Attributes:
        choices: (text, finish reason) of each; at least one, perhaps fewer than asked.
        usage: prompt_tokens and completion_tokens as the server counts them, or empty.
        attempts: HTTP calls made, retries included.
    """

    choices: tuple[tuple[str, str | None], ...]
    model: str
    usage: Mapping[str, int]
    response_id: str
    attempts: int


class Client:
    """A connection pool to one server; use as ``async with Client(...) as client``."""

    def __init__(
        self,
        base_url: str | None = None,
        api: Api = "chat",
        timeout: float = 120.0,
        max_retries: int = 6,
        key_variable: str = DEFAULT_KEY_VARIABLE,
    ) -> None:
        """Raises UserError where openai is not installed or the key is missing."""
        openai = _openai()
        self._errors = openai
        self._api = api
        self._one_by_one = False
        self._key = os.environ.get(key_variable, "")
        local = base_url or os.environ.get("OPENAI_BASE_URL")
        if not self._key and not local:
            raise UserError(
                f"{key_variable} is not set: put the key of the service into this environment "
                "variable, or give --base_url for a server that needs none"
            )
        http = openai.DefaultAsyncHttpxClient(
            timeout=timeout, event_hooks={"response": [_no_retry_of_spent_quota]}
        )
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=self._key or "none",
            max_retries=max_retries,
            timeout=timeout,
            http_client=http,
        )

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def complete(self, body: Mapping[str, Any], n: int = 1) -> Reply:
        """Sends one request for `n` samples.

        Raises Stop, TooLong or Failed; their text never holds the key.
        """
        if self._one_by_one:
            n = 1
        request = dict(body) | ({"n": n} if n > 1 else {})
        problem = ""
        for attempt in range(1, _MALFORMED_TRIES + 1):
            try:
                raw = await self._send(request)
                reply = read_response(raw.http_response.json(), attempt + raw.retries_taken)
            except self._errors.OpenAIError as error:
                if n > 1 and self._refuses_n(error):
                    reply = await self.complete(body)
                    self._one_by_one = True
                    return reply
                raise self._sorted(error) from None
            except (ValueError, TypeError, AttributeError) as error:
                # A whole answer that is no completion, or text that is not Unicode.
                problem = f"the server's answer is not a completion ({error})"
            else:
                if reply.choices:
                    return reply
                problem = "the server's answer holds no completion"
        raise Failed(self._clean(problem))

    async def _send(self, request: dict[str, Any]) -> Any:
        # extra_body: fields that this version of the SDK does not know reach the server as well.
        named = {"model", "messages", "prompt"}
        known = {name: request[name] for name in named & request.keys()}
        extra = {name: value for name, value in request.items() if name not in named}
        if self._api == "chat":
            endpoint = self._client.chat.completions
        else:
            endpoint = self._client.completions
        return await endpoint.with_raw_response.create(**known, extra_body=extra)

    def _refuses_n(self, error: Exception) -> bool:
        return isinstance(error, self._errors.BadRequestError) and not _is_too_long(error)

    def _sorted(self, error: Exception) -> Exception:
        """The failure as one of ours."""
        text = self._clean(_message(error))
        errors = self._errors
        if isinstance(error, errors.AuthenticationError | errors.PermissionDeniedError):
            return Stop(f"the server refuses the key: {text}")
        if isinstance(error, errors.RateLimitError) and _quota_is_spent(str(error.body)):
            return Stop(f"the quota is spent: {text}")
        if isinstance(error, errors.NotFoundError):
            return Stop(f"no such model or address: {text}")
        if isinstance(error, errors.APIStatusError) and _is_too_long(error):
            return TooLong(text)
        return Failed(text)

    def _clean(self, text: str) -> str:
        text = " ".join(text.split())[:300]
        return text.replace(self._key, "[key]") if self._key else text


def _openai() -> Any:
    try:
        import openai
    except ModuleNotFoundError:
        raise UserError(
            "the package openai is not installed; install it with: pip install 'sbs_jax[teacher]'"
        ) from None
    return openai


async def _no_retry_of_spent_quota(response: Any) -> None:
    # An exhausted quota arrives as 429, which the SDK would retry to no end; it obeys this header.
    if response.status_code == 429:
        await response.aread()
        if _quota_is_spent(response.text):
            response.headers["x-should-retry"] = "false"


def _quota_is_spent(text: str) -> bool:
    return "insufficient_quota" in text


def _is_too_long(error: Any) -> bool:
    if error.status_code not in (400, 413, 422):
        return False
    text = str(error).casefold()
    return any(sign in text for sign in _TOO_LONG)


def _message(error: Any) -> str:
    body = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return f"{getattr(error, 'status_code', '')} {body['message']}".strip()
    return f"{type(error).__name__}: {error}"


def read_response(body: Mapping[str, Any], attempts: int = 1) -> Reply:
    """The reply in a response body of either API.

    Raises TypeError or AttributeError for a body that is no completion.
    """
    choices = []
    for choice in body.get("choices") or ():
        message = choice.get("message")
        text = message.get("content") if message is not None else choice.get("text")
        # A refusal has no content: an answer, though an empty one.
        choices.append((text or "", choice.get("finish_reason")))
    usage = body.get("usage") or {}
    counts = {
        name: usage[name]
        for name in ("prompt_tokens", "completion_tokens")
        if isinstance(usage.get(name), int)
    }
    return Reply(
        choices=tuple(choices),
        model=str(body.get("model") or ""),
        usage=counts,
        response_id=str(body.get("id") or ""),
        attempts=attempts,
    )
