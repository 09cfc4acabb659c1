"""One call: what is sent, what comes back, and what its failures mean."""

import asyncio
import json
import logging
import time

import pytest
from helpers.serving import serving
from helpers.stub_server import Raw, StubServer, error

from sbs_jax.errors import UserError
from sbs_jax.teacher import rate_limit
from sbs_jax.teacher.client import Client, Failed, Stop, TooLong
from sbs_jax.teacher.replies import Choice

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
    assert reply.choices == (Choice("answer 0"),)
    assert (reply.model, reply.response_id, reply.attempts) == ("m-answered", "stub-1", 1)
    assert reply.usage == {"prompt_tokens": 2, "completion_tokens": 10}
    assert (stub.calls[0].path, stub.calls[0].body) == (path, body)


def test_n_samples(stub):
    (reply,) = complete(stub, n=3)
    assert [choice.text for choice in reply.choices] == ["answer 0", "answer 1", "answer 2"]
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
    assert reply.choices == (Choice("yes"),) and reply.attempts == 2
    stub.script = lambda call, sample: Raw(200, body)
    with pytest.raises(Failed, match="the server's answer "):
        complete(stub)


def test_a_refusal_is_an_empty_answer(stub):
    body = (
        b'{"choices": [{"message": {"content": null, "refusal": "No."}, "finish_reason": "stop"}]}'
    )
    stub.script = lambda call, sample: Raw(200, body)
    (reply,) = complete(stub)
    assert reply.choices == (Choice("", "stop", refusal="No."),)


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
        (error(402, "Insufficient Balance"), "the quota is spent: 402 Insufficient Balance"),
        (error(400, "unknown model m"), "no such model or address: 400 unknown model m"),
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
    with pytest.raises(Failed, match=r"^no answer from http://127\.0\.0\.1:\d+: Request timed out"):
        complete(stub, max_retries=0, timeout=0.1)


def test_nobody_there():
    with serving(StubServer(lambda call, sample: "yes")) as gone:
        pass
    with pytest.raises(Failed, match=f"^no answer from {gone.base_url[:-3]}: Connection error"):
        complete(gone, max_retries=0)


def test_text_that_is_no_unicode_fails_alone(stub):
    with pytest.raises(Failed):
        complete(stub, CHAT | {"messages": [{"role": "user", "content": "half \ud800"}]})
    assert stub.calls == []


def choice(text, finish="stop", **more):
    message = {"role": "assistant", "content": text}
    return {"index": 0, "finish_reason": finish, "message": message} | more


def body(*choices, **more):
    return Raw(200, json.dumps({"id": "r", "choices": list(choices), **more}).encode())


NO_ANSWERS = [
    body(choice(None)),
    body(choice("It cannot be (c)", "error")),
    body(choice("half", "content_filter")),
    body(choice(7)),
    body(choice("half", error={"code": 502, "message": "lost upstream"})),
    Raw(200, b'{"choices": null, "error": {"message": "busy", "code": 503}}'),
    Raw(200, b'data: {"error": {"message": "busy", "code": 503}}\n\n'),
]


@pytest.mark.parametrize("response", NO_ANSWERS)
def test_what_is_no_answer_is_asked_again_and_then_fails(stub, response):
    stub.script = scripted(response)
    (reply,) = complete(stub)
    assert reply.choices == (Choice("yes"),) and len(stub.calls) == 2
    stub.script = lambda call, sample: response
    with pytest.raises(Failed):
        complete(stub)
    assert len(stub.calls) == 4  # one retry was allowed


def test_an_empty_choice_among_good_ones_is_left_out(stub):
    stub.script = scripted(body(choice("a"), choice(None), choice("b", {"type": "stop"})))
    (reply,) = complete(stub, n=3)
    assert [answer.text for answer in reply.choices] == ["a", "b"]


def test_a_failure_counts_the_tokens_that_were_paid(stub):
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    stub.script = lambda call, sample: body(choice(None), usage=usage)
    with pytest.raises(Failed) as raised:
        complete(stub)
    assert raised.value.usage == {"prompt_tokens": 14, "completion_tokens": 6}


def test_tokens_paid_before_an_error_count_too(stub):
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    withheld = body(choice("half", "content_filter"), usage=usage)
    stub.script = lambda call, sample: withheld if len(stub.calls) == 1 else error(500, "oops")
    with pytest.raises(Failed, match=r"^500 oops$") as raised:
        complete(stub)
    assert raised.value.usage == usage


def test_a_prompt_that_is_repeated_is_no_part_of_the_answer(stub):
    stub.script = lambda call, sample: call.text + " yes"
    assert complete(stub, PLAIN)[0].choices == (Choice(" yes"),)


REASONS = [
    Raw(400, b'{"detail": "the reason"}'),
    Raw(400, b'{"error": "the reason"}'),
    Raw(400, b'[{"error": {"message": "the reason"}}]'),
    Raw(400, b"the reason"),
    Raw(418, b'{"message": "the reason"}'),
    Raw(200, b'{"error": {"message": "Failure", "metadata": {"raw": "the reason"}}}'),
    Raw(200, b'{"error": "the reason"}'),
]


@pytest.mark.parametrize("response", REASONS)
def test_the_servers_own_words_reach_the_user(stub, response):
    stub.script = lambda call, sample: response
    with pytest.raises(Failed, match="the reason"):
        complete(stub, max_retries=0)


def test_a_pause_inside_a_200_is_kept(stub):
    inside = b'{"error": {"code": 429, "message": "x", "details": [{"retryDelay": "0.3s"}]}}'
    stub.script = scripted(Raw(200, inside))
    began = time.monotonic()
    complete(stub)
    assert time.monotonic() - began >= 0.3


def refusing(*names):
    def script(call, sample):
        for name in names:
            if name in call.body:
                refusal = {"message": f"Unsupported parameter: '{name}'", "param": name}
                return Raw(400, json.dumps({"error": refusal}).encode())
        return "yes"

    return script


def test_refused_defaults_are_learned_once(stub, capsys):
    stub.script = refusing("max_tokens", "temperature", "stop")
    asked = CHAT | {"temperature": 0.0, "stop": ["Q:"]}
    first, second = complete(stub, asked, calls=2)
    assert first.choices == second.choices == (Choice("yes"),)
    assert len(stub.calls) == 3 + 2  # three refusals, two answers
    assert stub.calls[-1].body.keys() == {"model", "messages", "max_completion_tokens", "top_k"}
    assert first.sent == stub.calls[-1].body
    assert capsys.readouterr().err.count("the model refuses") == 3


def test_a_refused_field_of_the_user_stops_at_once(stub):
    stub.script = refusing("top_k")
    with pytest.raises(Stop, match=r"--request_json sends top_k.*\{\"top_k\": null\}"):
        complete(stub, fixed_fields={"top_k": 3})
    assert len(stub.calls) == 1


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


@pytest.mark.parametrize("address", ["127.0.0.1:9", "localhost:8000/v1", "ftp://localhost/v1"])
def test_an_address_is_a_url(monkeypatch, address):
    with pytest.raises(UserError, match=f"^--base_url={address}: has no http:// or https://"):
        Client(address)
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(UserError, match=f"^OPENAI_BASE_URL={address}: has no http://"):
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
