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
    ({"error": "red\x1b[31m\u2028 words"}, "red [31m words"),
    ({"Message": "capitals"}, "capitals"),
    ({"error": {"innererror": {"message": "within"}}}, "within"),
    ({"error": {"code": "some_error"}}, '{"error": {"code": "some_error"}}'),
    ({"errors": {"n": ["not an int"]}}, '{"errors": {"n": ["not an int"]}}'),
    (502, "502"),
    ({"error": {"message": "", "code": None}}, ""),
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
    ('\ufeff{"a": 1}', {"a": 1}),
    (': PROCESSING\n\n: PROCESSING\n\n{"a": 1}', {"a": 1}),
    (': PROCESSING\n\ndata: {"a": 1}\n\n', [{"a": 1}]),
    ('{"a": ' + "9" * 5000 + ', "b": 2}', {"a": float("inf"), "b": 2}),
    ('{"a": ' + "9" * 5000, '{"a": ' + "9" * 5000),
    ("[" * 100_000, "JSON that nests too deeply"),
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
    (429, openai("Sorry, your account balance is insufficient", code="1113"), "spent"),
    (403, openai("Key limit exceeded (monthly limit)."), "spent"),
    (400, openai("ExceededBudget: User=x over budget. Spend=1.0, Budget=1.0"), "spent"),
    (401, openai("Insufficient balance"), "spent"),
    (412, openai("Account suspended: unpaid invoices"), "spent"),
    # https://github.com/anthropics/claude-code/issues/38035
    (400, openai("You have reached your specified API usage limits. You will regain"), "spent"),
    (429, openai("Extra usage is required for long context requests."), "spent"),
    # https://github.com/continuedev/continue/issues/10373
    (429, "Your team has either used all available credits or reached its limit", "spent"),
    (429, "Your team reached its monthly spending limit", "spent"),
    # https://github.com/continuedev/continue/issues/11823
    (
        429,
        openai("\u4f59\u989d\u4e0d\u8db3\u6216\u65e0\u53ef\u7528\u8d44\u6e90\u5305", code="1113"),
        "spent",
    ),
    (429, openai("no resource package. Please recharge.", code="1113"), "spent"),
    (429, openai("This request requires more credits, or fewer max_tokens."), "spent"),
    (403, openai("your account has an overdue balance", code="AccountOverdueError"), "spent"),
    (412, openai("Account me is suspended, possibly due to failure to pay"), "spent"),
    # Passing: the SDK waits.
    (429, openai("You have reached your rate limit. Please try again in 20s."), "busy"),
    (429, openai("Server is temporarily limiting requests (not your usage limit)"), "busy"),
    (429, openai("This request would exceed your account's rate limit."), "busy"),
    (429, openai("Rate limit reached: 200 requests per day, try again in 7m12s"), "busy"),
    (400, [{"error": {"message": "API key not valid. Please pass a valid API key."}}], "key"),
    (400, openai("User location is not supported for the API use."), "key"),
    (407, "proxy", "key"),
    (400, openai("x is not a valid model ID"), "model"),
    (400, openai("Model Not Exist"), "model"),
    (400, {"message": "The provided model identifier is invalid."}, "model"),
    (400, openai("The model `m` has been decommissioned"), "model"),
    (400, openai("The model m has been retired"), "model"),
    (405, {"detail": "Method Not Allowed"}, "model"),
    *[
        (400, openai(text), "too_long")
        for text in (
            "`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2000 and 128",
            "`inputs` must have less than 1024 tokens. Given: 2000",
            "prompt is too long: 210000 tokens > 200000 maximum",
            "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000",
            "prompt token count of 140000 exceeds the limit of 128000",
            "This model's maximum prompt length is 131072 but the request contains 150000",
            "Range of input length should be [1, 30720]",
            "Prompt exceeds max length",
            "Your request exceeded model token limit: 8192 (requested: 9000)",
            "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
        )
    ],
    (500, openai("the request exceeds the available context size. try increasing it"), "too_long"),
    (504, openai("Request timeout exceeded"), "busy"),
    (400, openai("max_tokens is too large: 128. It supports at most 64 tokens"), "request"),
    (400, openai("`temperature` is deprecated for this model."), "request"),
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
    ({"choices": [{"message": {"content": "a"}}], "error": {"message": "", "code": None}}, None),
    ({"choices": [{"message": {"content": "a"}}], "error": {"message": "lost", "code": 502}}, 502),
    ({"choices": None, "base_resp": {"status_code": 1002, "status_msg": "rate limit"}}, 502),
    ({"choices": None, "base_resp": {"status_msg": "insufficient balance"}}, 402),
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
    (openai("Temperature should be greater than 0"), ["temperature"]),
    (openai("Only the default (1) value of temperature is supported"), ["temperature"]),
    (openai("maxTokens is not supported"), ["max_tokens"]),
    (openai("stop_sequences: Extra inputs are not permitted"), ["stop"]),
    (openai("stop sequences are incompatible with reasoning models"), ["stop"]),
    (openai("this model requires max_completion_tokens instead of max_tokens"), ["max_tokens"]),
    (openai("max_tokens: 128 > 64, the maximum allowed number of tokens"), ["max_tokens"]),
    (openai("#: extraneous key [stop] is not permitted"), ["stop"]),
    (openai('Invalid JSON payload. Unknown name "stop": Cannot find field.'), ["stop"]),
    (openai("the server had to stop"), []),
    (openai("n > 1 is not supported"), []),
    (openai("This model is not supported on weekends"), []),
    (openai("the messages are odd"), []),
]


@pytest.mark.parametrize(("body", "fields"), NAMED)
def test_refused_fields(body, fields):
    assert server_errors.named_fields(body, FIELDS) == fields


def test_the_pause_that_only_the_body_asks_for():
    assert server_errors.retry_seconds([{"error": {"details": [{"retryDelay": "34s"}]}}]) == "34"
    assert server_errors.retry_seconds({"error": "Please try again in 1.5s."}) == "1.5"
    assert server_errors.retry_seconds({"error": "try again in 7m12s"}) is None
    assert server_errors.retry_seconds({"error": "x"}) is None
