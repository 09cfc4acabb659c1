"""Fields that a server refuses: changed and told, or named with their flag."""

import pytest

from sbs_jax.teacher.request_fields import RequestFields

BODY = {
    "model": "m",
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}],
    "temperature": 0.0,
    "max_tokens": 9,
    "stop": ["Q:"],
}


def refusal(name):
    return {"error": {"message": f"'{name}' is not supported", "param": name}}


@pytest.fixture
def told():
    return []


def learn(told, *names, fixed=None):
    fields = RequestFields(fixed or {}, told.append)
    learned = [fields.learn(refusal(name), fields.applied(BODY)) for name in names]
    return fields, learned


CHANGES = [
    ("max_tokens", {"max_completion_tokens": 9}),
    ("temperature", {}),
    ("stop", {}),
]


@pytest.mark.parametrize(("name", "instead"), CHANGES)
def test_a_default_that_is_refused_is_changed_and_told(told, name, instead):
    fields, learned = learn(told, name)
    kept = {key: value for key, value in BODY.items() if key != name}
    assert learned == [True] and fields.applied(BODY) == kept | instead
    assert len(told) == 1 and name in told[0]


def test_several_one_after_another(told):
    fields, learned = learn(told, "max_tokens", "temperature", "stop")
    assert learned == [True] * 3
    assert fields.applied(BODY).keys() == {"model", "messages", "max_completion_tokens"}


def test_what_nothing_can_take_the_place_of_ends_it(told):
    fields, learned = learn(told, "max_tokens", "max_completion_tokens", "max_tokens")
    assert learned == [True, False, False]
    assert "--max_tokens sends max_tokens" in fields.advice(
        refusal("max_completion_tokens"), fields.applied(BODY)
    )


@pytest.mark.parametrize("name", ["temperature", "stop", "best_of", "response_format"])
def test_what_the_user_set_is_never_left_out(told, name):
    body = BODY | {name: 1}
    fields = RequestFields({name: 1}, told.append)
    assert not fields.learn(refusal(name), body) and not told
    advice = fields.advice(refusal(name), body)
    assert f"--request_json sends {name}" in advice
    assert f"""try --request_json='{{"{name}": null}}'""" in advice


def test_a_renamed_bound_keeps_its_value_even_where_the_user_set_it(told):
    fields = RequestFields({"max_tokens": 9}, told.append)
    assert fields.learn(refusal("max_tokens"), BODY)
    assert fields.applied(BODY)["max_completion_tokens"] == 9


SYSTEM = [
    "System role not supported",
    "system message is not allowed for this model",
    "Developer instruction is not enabled for models/gemma-3",
    "Unsupported value: 'system' role",
    "Conversation roles must alternate user/assistant/user/assistant/...",
    'messages: Unexpected role "system". The Messages API accepts a top-level one',
]


@pytest.mark.parametrize("text", SYSTEM)
def test_a_refused_system_line_goes_into_the_question(told, text):
    fields = RequestFields({}, told.append)
    assert fields.learn({"error": {"message": text}}, BODY)
    assert fields.applied(BODY)["messages"] == [{"role": "user", "content": "S\n\nU"}]
    assert not fields.learn({"error": {"message": text}}, fields.applied(BODY))


@pytest.mark.parametrize("text", ["the image is blurred", "bad request", "messages are odd"])
def test_a_refusal_that_names_no_field_teaches_nothing(told, text):
    fields = RequestFields({}, told.append)
    assert not fields.learn({"error": {"message": text}}, BODY)
    assert fields.advice({"error": {"message": text}}, BODY) == ""
