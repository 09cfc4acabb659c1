"""Bodies of any shape -> typed replies; what is an answer and what is none."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_jax.teacher import replies
from sbs_jax.teacher.replies import Choice, Unreadable


def body(content, finish="stop", **more):
    return {"choices": [{"message": {"content": content}, "finish_reason": finish} | more]}


READ = [
    ("plain", "plain", ""),
    ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", ""),
    ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, "b"], "b", "hm"),
    ([{"type": "reasoning", "summary": [{"text": "hm"}]}, {"text": "b"}], "b", "hm"),
    ([{"text": "hm", "thought": True}, {"text": "b"}], "b", "hm"),
    (["a", "b"], "ab", ""),
    ({"type": "text", "text": "a"}, "a", ""),
    ({"parts": 1, "type": "image"}, "", ""),
    ({"answer": "no", "rationale": "r"}, '{"answer": "no", "rationale": "r"}', ""),
    ([], "", ""),
    ([None, {"type": "text", "text": None}, {"type": "text", "text": "a"}], "a", ""),
    ([{"type": "output_text", "text": "a"}, {"type": "image_url", "image_url": {}}], "a", ""),
    ([{"type": "reasoning.text", "text": "hm"}, {"text": "b"}], "b", "hm"),
    ([{"type": "summary_text", "text": "hm"}, {"text": "b"}], "b", "hm"),
    ([{"type": "redacted_thinking", "data": "zz"}, {"type": "text", "text": "b"}], "b", ""),
]


@pytest.mark.parametrize(("content", "text", "thoughts"), READ)
def test_contents(content, text, thoughts):
    (choice,) = replies.read_response(body(content)).choices
    assert (choice.text, choice.thoughts) == (text, thoughts)


APART = [
    *({"reasoning_content": "hm"}, {"reasoning": "hm"}, {"thinking": "hm"}),
    {"reasoning": {"content": "hm"}, "reasoning_content": None},
    {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
    {"thinking_blocks": [{"type": "thinking", "thinking": "hm", "signature": "x"}]},
]


@pytest.mark.parametrize("apart", APART)
def test_thoughts_apart_from_the_content(apart):
    message = {"content": "b", **apart}
    (choice,) = replies.read_response({"choices": [{"message": message}]}).choices
    assert (choice.text, choice.thoughts) == ("b", "hm")


@pytest.mark.parametrize(
    "wrong",
    [7, None, "text", [], {}, {"choices": {}}, {"choices": ["text"]}, body(7), body(True)],
)
def test_what_holds_no_completion_is_unreadable(wrong):
    with pytest.raises(Unreadable):
        replies.read_response(wrong)


PLACES = [
    {"message": {}, "text": "a"},
    {"message": {"content": None}, "text": "a"},
    {"message": None, "text": "a"},
    {"message": "a"},
    {"delta": {"content": "a"}},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
]


@pytest.mark.parametrize("choice", PLACES)
def test_where_a_choice_may_hold_its_text(choice):
    assert replies.read_response({"choices": [choice]}).choices[0].text == "a"


def calling(arguments, **more):
    return {"message": {"content": None, "tool_calls": [{"function": {"arguments": arguments}}]}}


CALLS = [
    (calling('{"answer": "a"}'), '{"answer": "a"}'),
    (calling({"label": "a"}), '{"label": "a"}'),
    ({"message": {"function_call": {"arguments": '{"answer": "a"}'}}}, '{"answer": "a"}'),
    (calling('{"query": "boats"}'), ""),
    (calling("no JSON"), ""),
    ({"message": {"content": "text", "tool_calls": [None]}}, "text"),
]


@pytest.mark.parametrize(("choice", "text"), CALLS)
def test_a_tool_called_with_an_answer_gives_it(choice, text):
    (read,) = replies.read_response({"choices": [choice]}).choices
    assert read.text == text and bool(read.problem) == (not text)


def test_the_text_of_the_completions_api_may_be_a_list():
    (choice,) = replies.read_response({"choices": [{"text": ["a", "b"]}]}).choices
    assert choice.text == "ab"


def test_a_stream_that_nobody_asked_for():
    chunks = [
        {"id": "r", "choices": [{"index": 0, "delta": {"content": "a"}}]},
        {"choices": [{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
    ]
    reply = replies.read_response(chunks)
    assert reply.choices == (Choice("ab", "stop"),)
    assert reply.usage == {"prompt_tokens": 3, "completion_tokens": 2}


def test_a_stream_that_breaks_off_is_no_answer():
    chunks = [{"choices": [{"index": 0, "delta": {"content": "It cannot be (c)"}}]}]
    assert "broke off" in replies.read_response(chunks).choices[0].problem


FINISHES = [
    *[
        (word, word, False)
        for word in ("end_turn", "eos", "COMPLETE", "stop_sequence", "FINISH_REASON_STOP", "1", "")
    ],
    *[
        (word, word, True)
        for word in (
            *("max_tokens", "FINISH_REASON_MAX_TOKENS", "maxTokens", "max_length", "token_limit"),
            *("context_window", "truncated", "incomplete", "model_context_window_exceeded"),
        )
    ],
    ("stop", "stop", False),
    (None, None, False),
    ({"type": "stop", "matched": 2}, "stop", False),
    ({"type": "length", "length": 5}, "length", True),
    ({}, None, False),
    ("eos_token", "eos_token", False),
    ("MAX_TOKENS", "MAX_TOKENS", True),
    (["length"], "length", True),
    (3, "3", False),
]


@pytest.mark.parametrize(("value", "finish", "cut"), FINISHES)
def test_finish_reasons(value, finish, cut):
    (choice,) = replies.read_response(body("a", value)).choices
    assert choice.finish_reason == finish
    assert replies.is_cut(choice.finish_reason) == cut
    assert not choice.problem


PROBLEMS = [
    (body("It cannot be (c)", "error"), "the server gave up"),
    (body("It cannot be (c)", "stop", error={"message": "lost upstream"}), "lost upstream"),
    (body("half", "abort"), "the server gave up"),
    (body("half", "content_filter"), "filter"),
    (body(None, "SAFETY"), "filter"),
    *[
        (body("It cannot be (c)", word), "filter")
        for word in (
            *("contentFilter", "content-filter", "FINISH_REASON_SAFETY", "toxic"),
            *("guardrail_intervened", "BLOCKLIST", "moderation", "RECITATION"),
        )
    ],
    *[
        (body("It cannot be (c)", word), "the server gave up")
        for word in (
            *("server_error", "MALFORMED_FUNCTION_CALL", "OTHER", "USER_CANCEL", "rate_limit"),
            *("insufficient_system_resource", "preempted", "timeOut", "ERROR_LIMIT"),
        )
    ],
    (body("half", native_finish_reason="SAFETY"), "filter"),
    (body("half", native_finish_reason="error"), "the server gave up"),
    (body("half", error=True), "the server gave up"),
    (body("half", error=502), "502"),
    (body("half", error={"code": 502}), "502"),
    (body("\u200b\ufeff\n"), "an empty answer"),
    (body("</s>"), "an empty answer"),
    (body(None), "an empty answer"),
    (body(" \n"), "an empty answer"),
    (body("<think>hm</think>\n"), "in the model's thoughts"),
    (body("", {"type": "stop"}), "an empty answer"),
    ({"choices": [{"message": {"content": None, "reasoning": "hm"}}]}, "in the model's thoughts"),
]


@pytest.mark.parametrize(("value", "problem"), PROBLEMS)
def test_what_is_no_answer_says_why(value, problem):
    (choice,) = replies.read_response(value).choices
    assert problem in choice.problem
    row = {"key": "k", "params": {}, "text": choice.text, "finish_reason": choice.finish_reason}
    assert bool(replies.problem_of(row)) == (not choice.error)


ANSWERS = [
    body("", "length"),  # the budget ended it: asking again costs the same
    body("half", "length"),
    body("<think>hm", "length"),
    {"choices": [{"message": {"content": None, "refusal": "I will not."}}]},
    {"choices": [{"message": {"content": [{"type": "refusal", "refusal": "No."}]}}]},
    body("no", None),
    body("", "refusal"),
    body("half", native_finish_reason="MAX_TOKENS"),
    body("a", error=False, native_finish_reason="STOP"),
]


@pytest.mark.parametrize("value", ANSWERS)
def test_what_is_an_answer(value):
    assert not replies.read_response(value).choices[0].problem


USAGES = [
    ({"prompt_tokens": 3, "completion_tokens": 2}, {"prompt_tokens": 3, "completion_tokens": 2}),
    ({"input_tokens": 3, "output_tokens": 2}, {"prompt_tokens": 3, "completion_tokens": 2}),
    (
        {"prompt_tokens": "3", "completion_tokens": 2.0},
        {"prompt_tokens": 3, "completion_tokens": 2},
    ),
    ({"prompt_tokens": None, "completion_tokens": -2}, {}),
    ({"prompt_tokens": True, "completion_tokens": float("inf")}, {}),
    (None, {}),
    ([], {}),
]


@pytest.mark.parametrize(("usage", "counts"), USAGES)
def test_usage(usage, counts):
    assert replies.read_response(body("a") | {"usage": usage}).usage == counts


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "text", "type", "error", "usage", "id"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(value=JSON)
def test_no_body_gets_past_the_border_untyped(value):
    try:
        reply = replies.read_response({"choices": [value]})
    except Unreadable:
        return
    for choice in reply.choices:
        assert isinstance(choice.text, str) and isinstance(choice.problem, str)
        assert isinstance(choice.finish_reason, str | None)
        json.dumps(choice.finish_reason)


@pytest.mark.parametrize(
    ("message", "finish", "advised"),
    [
        ({"content": None, "reasoning_content": "(a)?"}, "stop", True),
        ({"content": "", "reasoning": "The example\n"}, "STOP", True),
        ({"content": "<think>as in the example"}, "stop", True),
        ({"content": [{"type": "thinking", "thinking": "so"}]}, "stop", True),
        ({"content": None, "reasoning_content": "(a)?"}, "eos", False),
        ({"content": ""}, "stop", False),
    ],
)
def test_thoughts_that_a_stop_string_may_have_ended_are_told(message, finish, advised):
    body = {"choices": [{"message": message, "finish_reason": finish}]}
    problem = replies.read_response(body).choices[0].problem
    assert problem.startswith("an empty answer")
    assert ("""--request_json='{"stop": null}' sends none""" in problem) == advised


@pytest.mark.parametrize(
    ("content", "aloud"),
    [
        ({"parts": [{"text": "(d) "}, {"text": "sea"}]}, ""),
        ({"parts": [{"text": "hm", "thought": True}, {"text": "(d) sea"}], "role": "model"}, "hm"),
        ([{"type": "text", "text": {"value": "(d) sea"}}], ""),
        ([{"parts": ["(d)", " sea"]}], ""),
        (["(d)", " sea"], ""),
    ],
)
def test_parts_of_parts_are_joined(content, aloud):
    body = {"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}
    (choice,) = replies.read_response(body).choices
    assert (choice.text, choice.thoughts) == ("(d) sea", aloud)
