"""One call: what is sent, what comes back, and what its failures mean."""

import asyncio
import logging
import time

import pytest
from helpers.stub_server import Raw, StubServer, error, serving

from sbs_jax.errors import UserError
from sbs_jax.teacher import rate_limit
from sbs_jax.teacher.client import Client, Failed, Stop, TooLong

pytest.importorskip("openai")

CHAT = {
    "model": "m",
    "messages": [{"role": "user", "content": "Q: 1?\nA:"}],
    "max_tokens": 5,
    "top_k": 3,  # no field of OpenAI's: servers of others have such
}
PLAIN = {"model": "m", "prompt": "Q: 1?\nA:", "max_tokens": 5}


@pytest.fixture
def stub():
    with serving(StubServer(lambda call, sample: f"answer {sample}")) as server:
        yield server


def complete(stub, body=CHAT, n=1, calls=1, **options):
    api = "chat" if "messages" in body else "completions"
    options = {"max_retries": 1, "timeout": 5.0} | options

    async def run():
        async with Client(stub.base_url, api, **options) as client:
            return [await client.complete(body, n) for _ in range(calls)]

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "path"), [(CHAT, "/v1/chat/completions"), (PLAIN, "/v1/completions")]
)
def test_both_apis(stub, body, path):
    (reply,) = complete(stub, body)
    assert reply.choices == (("answer 0", "stop"),)
    assert (reply.model, reply.response_id, reply.attempts) == ("m-answered", "stub-1", 1)
    assert reply.usage == {"prompt_tokens": 2, "completion_tokens": 10}
    assert (stub.calls[0].path, stub.calls[0].body) == (path, body)


def test_n_samples(stub):
    (reply,) = complete(stub, n=3)
    assert [text for text, _ in reply.choices] == ["answer 0", "answer 1", "answer 2"]
    assert stub.calls[0].body["n"] == 3


def test_a_server_that_ignores_n_gives_what_it_gives(stub):
    stub.honours_n = False
    (reply,) = complete(stub, n=3)
    assert len(reply.choices) == 1


def test_a_server_that_refuses_n_is_asked_one_by_one(stub):
    stub.script = lambda call, sample: (
        error(400, "n > 1 is not supported") if "n" in call.body else "yes"
    )
    first, second = complete(stub, n=3, calls=2)
    assert len(first.choices) == len(second.choices) == 1
    assert [call.body.get("n") for call in stub.calls] == [3, None, None]  # refused once


def scripted(*responses):
    """Answers the first calls by `responses`, the rest by "yes"."""
    queue = list(responses)
    return lambda call, sample: queue.pop(0) if queue else "yes"


def test_retry_after_is_obeyed(stub):
    stub.script = scripted(error(429, "slow down", Retry_After="0.3"))
    began = time.monotonic()
    (reply,) = complete(stub)
    assert reply.attempts == 2 and time.monotonic() - began >= 0.3


def test_retries_end(stub):
    stub.script = lambda call, sample: error(500, "oops", Retry_After="0.01")
    with pytest.raises(Failed, match=r"^500 oops$"):
        complete(stub, max_retries=2)
    assert len(stub.calls) == 3


@pytest.mark.parametrize(
    "body", [b'{"choices": [{"mess', b"", b"[]", b"null", b'{"choices": []}', b'{"choices": [3]}']
)
def test_a_body_that_is_no_completion_is_asked_again(stub, body):
    stub.script = scripted(Raw(200, body))
    (reply,) = complete(stub)
    assert reply.choices == (("yes", "stop"),) and reply.attempts == 2
    stub.script = lambda call, sample: Raw(200, body)
    with pytest.raises(Failed, match="the server's answer "):
        complete(stub)


def test_a_refusal_is_an_empty_answer(stub):
    body = b'{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}'
    stub.script = lambda call, sample: Raw(200, body)
    (reply,) = complete(stub)
    assert reply.choices == (("", "content_filter"),)


@pytest.mark.parametrize(
    "response",
    [
        error(400, "This model's maximum context length is 4096 tokens", "context_length_exceeded"),
        error(400, "the request exceeds the available context size: prompt is too long"),
        error(413, "prompt too long"),
        error(422, "input has too many tokens"),
    ],
)
def test_a_prompt_that_is_too_long_is_told_apart(stub, response):
    stub.script = lambda call, sample: response
    with pytest.raises(TooLong):
        complete(stub, n=2)
    assert len(stub.calls) == 1  # and not tried again


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (error(401, "bad key"), "the server refuses the key: 401 bad key"),
        (error(403, "not yours"), "the server refuses the key: 403 not yours"),
        (error(404, "no model m"), "no such model or address: 404 no model m"),
        (error(429, "pay", "insufficient_quota"), "the quota is spent: 429 pay"),
    ],
)
def test_what_no_retry_can_heal_stops_at_once(stub, response, message):
    stub.script = lambda call, sample: response
    with pytest.raises(Stop, match=f"^{message}$"):
        complete(stub, max_retries=5)
    assert len(stub.calls) == 1


def test_a_silent_server_is_given_up(stub):
    def sleep(call, sample):
        time.sleep(0.5)
        return "late"

    stub.script = sleep
    with pytest.raises(Failed, match="Request timed out"):
        complete(stub, max_retries=0, timeout=0.1)


def test_nobody_there():
    with serving(StubServer(lambda call, sample: "yes")) as gone:
        pass
    with pytest.raises(Failed, match="Connection error"):
        complete(gone, max_retries=0)


def test_text_that_is_no_unicode_fails_alone(stub):
    with pytest.raises(Failed):
        complete(stub, CHAT | {"messages": [{"role": "user", "content": "half \ud800"}]})
    assert stub.calls == []


SECRET = "sk-very-secret-0123456789"


def test_the_key_is_sent_and_never_said(stub, monkeypatch, caplog):
    monkeypatch.setenv("TEACHER_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    stub.script = lambda call, sample: error(401, f"wrong key: {call.authorization}")
    with pytest.raises(Stop) as raised:
        complete(stub, key_variable="TEACHER_KEY")
    assert stub.calls[0].authorization == f"Bearer {SECRET}"
    assert "wrong key: Bearer [key]" in str(raised.value)
    assert SECRET not in str(raised.value) + caplog.text


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        Client()


def test_a_local_server_needs_no_key(stub, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert complete(stub)


def test_amounts_per_minute_are_spaced_out():
    async def run():
        rate = rate_limit.PerMinute(600.0)  # ten a second
        loop = asyncio.get_running_loop()
        began = loop.time()
        times = []
        for _ in range(4):
            await rate.take()
            times.append(loop.time() - began)
        rate.correct(3.0)
        await rate.take()
        return [*times, loop.time() - began]

    times = asyncio.run(run())
    assert all(t >= due - 0.01 for t, due in zip(times, [0, 0.1, 0.2, 0.3, 0.7], strict=True))


def test_no_limit_never_waits():
    async def run():
        rate = rate_limit.PerMinute(None)
        began = time.monotonic()
        for _ in range(1000):
            await rate.take(1e6)
        return time.monotonic() - began

    assert asyncio.run(run()) < 0.5
