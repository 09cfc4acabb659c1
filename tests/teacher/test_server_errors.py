"""The server's words out of any shape, and what they tell of."""

import pytest

from sbs_jax.teacher import server_errors

WORDS = [
    ({"error": {"message": "slow down", "code": 429}}, "slow down"),
    ({"error": "text alone"}, "text alone"),
    ({"detail": "Unexpected fields"}, "Unexpected fields"),
    ({"detail": {"msg": "in an object"}}, "in an object"),
    (
        {"detail": [{"loc": ["body", "n"], "msg": "not an int"}, {"msg": "and more"}]},
        "body.n: not an int; and more",
    ),
    ([{"error": {"code": 429, "message": "quota exceeded", "status": "X"}}], "quota exceeded"),
    (
        {"error": {"message": "Provider error", "metadata": {"raw": "pool is busy"}}},
        "Provider error; pool is busy",
    ),
    ({"error": {"message": '{"error": {"message": "within"}}'}}, "within"),
    ({"message": "at the top"}, "at the top"),
    ({"errors": ["one", "two"]}, "one; two"),
    ("plain body\nof two lines", "plain body of two lines"),
    ({}, ""),
    (None, ""),
]


@pytest.mark.parametrize(("body", "text"), WORDS)
def test_words(body, text):
    assert server_errors.words(body) == text


def test_long_words_are_shortened():
    assert len(server_errors.words("x" * 5000)) == 300


BODIES = [
    ('{"error": "x"}', {"error": "x"}),
    ('data: {"error": {"message": "x"}}\n\ndata: [DONE]\n', [{"error": {"message": "x"}}]),
    ("<html><title>502 Bad Gateway</title></html>", "502 Bad Gateway"),
    ("busy", "busy"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "body"), BODIES)
def test_bodies(text, body):
    assert server_errors.parsed(text) == body


def openai(message, **more):
    return {"error": {"message": message, **more}}


KINDS = [
    (401, openai("bad key"), "key"),
    (403, openai("not yours"), "key"),
    (402, openai("Insufficient Balance"), "spent"),
    (429, openai("You exceeded your current quota", code="insufficient_quota"), "spent"),
    (429, [{"error": {"message": "You exceeded your current quota", "status": "X"}}], "spent"),
    (400, openai("Your credit balance is too low to access the API"), "spent"),
    (
        429,
        openai("You exceeded your current quota", details=[{"retryDelay": "34s"}]),
        "busy",  # by the minute: it comes back
    ),
    (429, openai("Rate limit reached"), "busy"),
    (404, openai("no model m"), "model"),
    (400, openai("The model `m` does not exist", code="model_not_found"), "model"),
    (400, {"detail": "the server is pinned to m2"}, "model"),
    (400, openai("maximum context length is 4096 tokens"), "too_long"),
    (
        400,
        openai("request (766 tokens) exceeds the available context size (512 tokens)", code=400),
        "too_long",
    ),
    (400, openai("x", type="exceed_context_size_error"), "too_long"),
    (400, openai("input token count (9) exceeds the maximum"), "too_long"),
    (413, "Payload", "too_long"),
    (400, openai("filtered by the content management policy"), "filtered"),
    (403, openai("your input was flagged"), "filtered"),
    (400, openai("'temperature' is not supported"), "request"),
    (422, {"detail": "Unexpected fields"}, "request"),
    (500, "oops", "busy"),
    (503, openai("overloaded"), "busy"),
]


@pytest.mark.parametrize(("status", "body", "kind"), KINDS)
def test_kinds(status, body, kind):
    assert server_errors.kind(status, body) == kind


STATUSES = [
    ({"choices": [{"message": {"content": "a"}}]}, None),
    ({"choices": [{"message": {"content": "a"}}], "error": None}, None),
    ({"choices": None, "error": {"message": "x", "code": 429}}, 429),
    ({"choices": None, "error": {"message": "x", "code": "503"}}, 503),
    ({"error": {"message": "x", "code": "rate_limit_exceeded"}}, 429),
    ({"error": "text"}, 502),
    ({"error": "insufficient balance"}, 402),
    ({"detail": "wrong"}, 502),
    ([{"error": {"code": 429, "message": "x"}}], 429),
    ({"choices": [{"error": {"code": 502, "message": "x"}}]}, 502),
    ({"choices": [{"error": {"code": 502}}, {"message": {"content": "a"}}]}, None),
    ({}, None),
    ("text", None),
]


@pytest.mark.parametrize(("body", "status"), STATUSES)
def test_errors_in_place_of_an_answer(body, status):
    assert server_errors.status_in(body) == status


FIELDS = ("model", "messages", "temperature", "max_tokens", "stop", "best_of", "n", "logprobs")
NAMED = [
    (openai("no", param="max_tokens"), ["max_tokens"]),
    ({"detail": [{"loc": ["body", "best_of"], "msg": "Extra inputs"}]}, ["best_of"]),
    ({"detail": "Unexpected fields in the request: {'best_of'}"}, ["best_of"]),
    (openai("Unsupported parameter: 'stop' is not supported with this model."), ["stop"]),
    (openai("temperature does not support 0"), ["temperature"]),
    (openai("temperature: not supported"), ["temperature"]),
    (openai("logprobs must be bool"), ["logprobs"]),
    (openai("n > 1 is not supported"), []),
    (openai("This model is not supported on weekends"), []),
    (openai("the messages are odd"), []),
]


@pytest.mark.parametrize(("body", "fields"), NAMED)
def test_refused_fields(body, fields):
    assert server_errors.named_fields(body, FIELDS) == fields


def test_the_pause_that_only_the_body_asks_for():
    assert server_errors.retry_seconds([{"error": {"details": [{"retryDelay": "34s"}]}}]) == "34"
    assert server_errors.retry_seconds({"error": "x"}) is None
