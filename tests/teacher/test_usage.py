"""Tokens that a server counts too low, and bounds that it ignores."""

import pytest

from sbs_jax.teacher import usage
from sbs_jax.teacher.replies import Choice, Reply
from sbs_jax.teacher.requests import Request

TEXT = "They are tied up where the water is calm. So the answer is (a) harbor."  # 70 characters


def request(**body):
    return Request("1", "0" * 64, {"model": "m", **body}, "", prompt_tokens=50)


def reply(texts, sent=None, **counts):
    return Reply(tuple(map(Choice, texts)), usage=counts, sent=sent)


COUNTS = [
    ([TEXT], {"prompt_tokens": 5, "completion_tokens": 18}, (5, 18, False)),
    ([TEXT] * 3, {"prompt_tokens": 5, "completion_tokens": 54}, (5, 54, False)),
    ([TEXT] * 3, {"prompt_tokens": 5, "completion_tokens": 18}, (5, 54, True)),  # those of one
    ([TEXT] * 2, {"prompt_tokens": 5, "completion_tokens": 18}, (5, 36, True)),
    ([TEXT], {}, (50, 18, True)),
    ([TEXT], {"completion_tokens": 18}, (50, 18, True)),
    (["漢字かな" * 5], {"prompt_tokens": 5, "completion_tokens": 14}, (5, 14, False)),
]


# Two sums of 34 characters each, in a prompt of 2,400 characters.
SUM = "3 + 4 + 5 = 12. The answer is (12)"
SEVERAL = [
    (2, {"prompt_tokens": 1000, "completion_tokens": 28}, (28, False)),
    (2, {"prompt_tokens": 1000, "completion_tokens": 20}, (20, False)),
    (2, {"prompt_tokens": 1000, "completion_tokens": 14}, (29, True)),  # those of one
    (3, {"prompt_tokens": 1000, "completion_tokens": 14}, (43, True)),
    (1, {"prompt_tokens": 1000, "completion_tokens": 8}, (8, False)),
    (2, {"prompt_tokens": 100, "completion_tokens": 14}, (14, False)),  # says nothing of 2,400
]


@pytest.mark.parametrize(("n", "counts", "expected"), SEVERAL)
def test_the_prompt_tells_how_long_the_tokens_of_a_server_are(n, counts, expected):
    asked = Request("1", "0" * 64, {"model": "m"}, "", prompt_tokens=600)
    tokens = usage.of(reply([SUM] * n, **counts), asked)
    assert (tokens.completion_tokens, tokens.estimated) == expected


@pytest.mark.parametrize(("texts", "counts", "expected"), COUNTS)
def test_counts_are_never_too_low(texts, counts, expected):
    tokens = usage.of(reply(texts, **counts), request())
    assert (tokens.prompt_tokens, tokens.completion_tokens, tokens.estimated) == expected


BEYOND = [
    ({"max_completion_tokens": 40}, [TEXT], 46, True),
    ({"max_completion_tokens": 40}, [TEXT], 40, False),
    ({"max_tokens": 40}, [TEXT], 420, True),
    ({"max_tokens": 40}, [TEXT] * 3, 120, False),
    ({"max_tokens": 40}, [TEXT] * 3, 121, True),
    ({"max_tokens": 40}, [TEXT * 60], 0, True),  # not counted, and surely longer
    ({}, [TEXT], 420, False),
]


@pytest.mark.parametrize(("body", "texts", "tokens", "warned"), BEYOND)
def test_a_bound_that_is_ignored_is_told(body, texts, tokens, warned):
    line = usage.beyond_bound(reply(texts, completion_tokens=tokens), request(**body))
    assert bool(line) == warned
    assert not warned or next(iter(body)) in line


BOUNDS = [
    ({"max_tokens": 9}, 9),
    ({"max_completion_tokens": 7}, 7),
    ({"max_tokens": None, "max_completion_tokens": 7}, 7),
    ({"max_tokens": 9, "max_completion_tokens": 7}, 7),
    ({"max_tokens": None}, 0),
]


@pytest.mark.parametrize(("body", "most"), BOUNDS)
def test_the_bound_of_a_request(body, most):
    assert usage.bound(body) == most


def test_the_bound_as_it_was_sent_counts():
    answered = reply([TEXT], {"max_completion_tokens": 40}, completion_tokens=50)
    assert "max_completion_tokens" in usage.beyond_bound(answered, request(max_tokens=40))


@pytest.mark.parametrize("counts", [None, [], {"prompt_tokens": "x"}, {}])
def test_odd_counts_in_a_journal_are_none(counts):
    assert usage.spent({"usage": counts}) == (0, 0)
    assert usage.spent({"usage": {"prompt_tokens": 2, "completion_tokens": 3}}) == (2, 3)
