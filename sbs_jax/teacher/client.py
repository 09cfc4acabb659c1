"""Calls an OpenAI-compatible server and classifies its failures.

The openai SDK does the HTTP: it retries 408, 409, 429, 5xx, time-outs and dropped connections
with backoff and obeys Retry-After. Added here: quirks of servers that only resemble OpenAI's (an
ignored ``n``, refused fields, errors in place of an answer), and the sorting of failures into

* `Stop`: no further call can succeed (wrong key, spent quota, unknown model, a refused field);
* `TooLong`: this prompt does not fit the model;
* `Failed`: this call did not succeed; a later run may.

No request is sent twice without a reason: the SDK's retries, a refused field that was changed, or
an answer that is none (`_TRIES` at most).
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from sbs_jax.errors import UserError
from sbs_jax.teacher import replies, server_errors
from sbs_jax.teacher.replies import Reply, Unreadable
from sbs_jax.teacher.request_fields import RequestFields
from sbs_jax.teacher.requests import Api
from sbs_jax.utils import console

DEFAULT_KEY_VARIABLE = "OPENAI_API_KEY"

_PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}
_TRIES = 3  # of a question whose answer is none: empty, filtered, or no completion at all


class Stop(Exception):
    """No further call can succeed."""


class TooLong(Exception):
    """The prompt does not fit into the model's context."""


class Failed(Exception):
    """The call did not succeed, after all retries.

    Attributes:
        usage: the tokens of answers that were paid for and could not be used.
    """

    def __init__(self, text: str, usage: Mapping[str, int] | None = None) -> None:
        super().__init__(text)
        self.usage = usage or {}


@dataclasses.dataclass(frozen=True, slots=True)
class _Refusal:
    """An HTTP error: its status, its body, and its words in one line."""

    status: int
    body: Any
    text: str

    @property
    def is_about_fields(self) -> bool:
        """Whether the request itself may be to blame, not its prompt, the key or the model."""
        return server_errors.kind(self.status, self.body) == "request"


class Client:
    """A connection pool to one server; use as ``async with Client(...) as client``."""

    def __init__(
        self,
        base_url: str | None = None,
        api: Api = "chat",
        timeout: float = 120.0,
        max_retries: int = 6,
        key_variable: str = DEFAULT_KEY_VARIABLE,
        fixed_fields: Mapping[str, Any] | None = None,
    ) -> None:
        """Raises UserError without openai, without a key, or where the address is no URL.

        Args:
            fixed_fields: request fields that the user set; one that the server refuses ends the
                run instead of being left out.
        """
        openai = _openai()
        self._errors = openai
        self._path = _PATHS[api]
        self._one_by_one = False
        self._tries = min(_TRIES, 1 + max_retries)
        self._fields = RequestFields(fixed_fields or {}, self._tell)
        self._key = os.environ.get(key_variable, "")
        local = base_url or os.environ.get("OPENAI_BASE_URL")
        if not self._key and not local:
            raise UserError(
                f"{key_variable} is not set: put the key of the service into this environment "
                "variable, or give --base_url for a server that needs none"
            )
        if local and not local.lower().startswith(("http://", "https://")):
            raise UserError(
                f"{'--base_url' if base_url else 'OPENAI_BASE_URL'}={local}: has no http:// or "
                "https:// before it; write the whole address, as http://localhost:8000/v1"
            )
        http = openai.DefaultAsyncHttpxClient(
            timeout=timeout, event_hooks={"response": [_show_errors_to_the_sdk]}
        )
        self._response = _response_class(http)
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
        """Sends one request for `n` samples; returns the answers among its choices.

        Raises Stop, TooLong or Failed; their text never holds the key.
        """
        problem, usage, attempts = "", dict[str, int](), 0
        for _ in range(self._tries):
            try:
                reply = await self._reply(body, n)
            except Unreadable as error:
                problem, attempts = f"the server's answer is not a completion ({error})", 1
                continue
            except Failed as error:
                raise Failed(str(error), usage) from None
            usage = _sum(usage, reply.usage)
            attempts += reply.attempts
            answers = tuple(choice for choice in reply.choices if not choice.problem)
            if answers:
                return dataclasses.replace(reply, choices=answers, usage=usage, attempts=attempts)
            problem = reply.choices[0].problem
        raise Failed(self._clean(problem), usage)

    async def _reply(self, body: Mapping[str, Any], n: int) -> Reply:
        """One answered call, after the changes that the server asks for."""
        while True:
            count = 1 if self._one_by_one else n
            request = self._fields.applied(body)
            try:
                raw = await self._send(request | ({"n": count} if count > 1 else {}))
            except self._errors.APIStatusError as error:
                refusal = self._refusal(error)
            except self._errors.APIConnectionError as error:
                url = self._client.base_url
                raise Failed(
                    f"no answer from {url.scheme}://{url.netloc.decode()}: {error}"
                ) from None
            except (self._errors.OpenAIError, ValueError, TypeError) as error:
                # ValueError: text that is not Unicode.
                raise Failed(self._clean(f"{type(error).__name__}: {error}")) from None
            else:
                retries = raw.request.headers.get("x-stainless-retry-count", "0")
                reply = replies.read_response(server_errors.parsed(raw.text), 1 + int(retries))
                changed = request != dict(body)
                reply = _without_prompt(reply, request)
                return dataclasses.replace(reply, sent=request if changed else None)
            if count > 1 and self._refuses_n(refusal, request):
                return await self._alone(body)
            if not self._changes(refusal, body, request):
                raise self._error(refusal, request)

    def _changes(
        self, refusal: _Refusal, body: Mapping[str, Any], request: Mapping[str, Any]
    ) -> bool:
        """Whether the next request will differ from the one that was refused."""
        if self._fields.applied(body) != request:
            return True  # another call has learned of it meanwhile
        if self._fields.refuses_structure(refusal.status, request):
            return self._fields.next_form(refusal.text)
        about = refusal.is_about_fields or self._fields.refuses_system(refusal.text, request)
        return about and self._fields.learn(refusal.body, request)

    async def _alone(self, body: Mapping[str, Any]) -> Reply:
        """Requests one sample after a refusal of several; remembers that if it helps."""
        reply = await self._reply(body, 1)
        self._one_by_one = True
        return reply

    def _refuses_n(self, refusal: _Refusal, request: Mapping[str, Any]) -> bool:
        if not refusal.is_about_fields:
            return False
        named = server_errors.named_fields(refusal.body, {**request, "n": 2})
        return not named or "n" in named

    async def _send(self, request: dict[str, Any]) -> Any:
        # Not the SDK's typed methods: they look at every field of every message, in half the time
        # of a call, and know fewer fields than servers do.
        return await self._client.post(self._path, cast_to=self._response, body=request)

    def _refusal(self, error: Any) -> _Refusal:
        body = server_errors.parsed(error.response.text)
        text = server_errors.words(body) or "no reason given"
        return _Refusal(error.status_code, body, self._clean(f"{error.status_code} {text}"))

    def _sorted(self, refusal: _Refusal) -> Exception:
        """The failure as one of ours."""
        kind, text = server_errors.kind(refusal.status, refusal.body), refusal.text
        if kind == "key":
            return Stop(f"the server refuses the key: {text}")
        if kind == "spent":
            return Stop(f"the quota is spent: {text}")
        if kind == "model":
            return Stop(f"no such model or address: {text}")
        return TooLong(text + _slots(refusal.body)) if kind == "too_long" else Failed(text)

    def _error(self, refusal: _Refusal, request: Mapping[str, Any]) -> Exception:
        """The exception for a refusal: Stop if every question would meet it, else Failed."""
        about = refusal.is_about_fields
        advice = self._fields.advice(refusal.body, request) if about else ""
        if not advice:
            return self._sorted(refusal)
        return Stop(f"the server refuses the request: {refusal.text}; {advice}")

    def _tell(self, line: str) -> None:
        console.say(self._clean(line))

    def _clean(self, text: str) -> str:
        text = " ".join(text.split())
        return text.replace(self._key, "[key]") if self._key else text


def _openai() -> Any:
    try:
        import openai
    except ModuleNotFoundError:
        raise UserError(
            "the package openai is not installed; install it with: pip install 'sbs_jax[teacher]'"
        ) from None
    return openai


def _response_class(http: Any) -> Any:
    """The class of responses in the HTTP library that this version of the SDK builds on."""
    library = next(cls.__module__ for cls in type(http).__mro__ if cls.__name__ == "AsyncClient")
    return sys.modules[library.partition(".")[0]].Response


async def _show_errors_to_the_sdk(response: Any) -> None:
    """Lets the SDK retry what deserves it, and only that.

    An error inside a 200 gets the status it names; a spent quota, which arrives as 429, is not
    retried; a pause that only the body asks for becomes the header that the SDK obeys.
    """
    await response.aread()
    body = server_errors.parsed(response.text)
    if response.status_code == 200:
        inside = server_errors.status_in(body)
        if inside is None:
            return
        response.status_code = inside
    if server_errors.kind(response.status_code, body) in ("spent", "too_long"):
        response.headers["x-should-retry"] = "false"
    pause = server_errors.retry_seconds(body)
    if pause:
        response.headers.setdefault("retry-after", pause)


def _without_prompt(reply: Reply, request: Mapping[str, Any]) -> Reply:
    """The reply of a server that repeats the prompt before its completion."""
    prompt = request.get("prompt")
    if not prompt or not any(choice.text.startswith(prompt) for choice in reply.choices):
        return reply
    shortened = (
        dataclasses.replace(choice, text=choice.text.removeprefix(prompt))
        for choice in reply.choices
    )
    return dataclasses.replace(reply, choices=tuple(shortened))


def _slots(body: Any) -> str:
    """What llama.cpp's limit means: its context is divided among the slots."""
    if "exceed_context_size" not in json.dumps(body):
        return ""
    return "; llama.cpp's server divides its context by --parallel"


def _sum(counts: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) + more.get(name, 0) for name in {*counts, *more}}
