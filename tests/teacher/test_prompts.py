"""The shipped prompts, their rendering, and a prompt file of one's own."""

import collections
import dataclasses
import json

import pytest

from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.teacher import labels, prompts
from sbs_jax.teacher.requests import Recipe, unique

DATASETS = ["anli1", "asdiv", "cqa", "demo", "esnli", "svamp"]

QUESTIONS = {
    "anli1": Record("7", "Rain fell.</s>It was dry.", "contradiction"),
    "asdiv": Record("7", "Ben has 3 {red} pens.\nHow many pens?", "(3)"),
    "cqa": Record("7", "What barks?\nAnswer Choices:\n(a) dog\n(b) fish", "dog"),
    "demo": Record("7", "can a bavik trosk ?", "yes"),
    "esnli": Record("7", "Rain fell.</s>It was dry.", "contradiction"),
    "svamp": Record("7", "Ben has 3 {red} pens\nHow many pens?", "(3)"),
}


def test_every_dataset_has_a_prompt():
    assert prompts.names() == DATASETS


@pytest.mark.parametrize("name", DATASETS)
def test_exemplars_parse_back(name):
    prompt = prompts.load(name)
    assert 6 <= len(prompt.exemplars) <= 8
    for exemplar in prompt.exemplars:
        completion = prompt.write_completion(exemplar)
        assert prompt.parse(completion) == (exemplar.rationale, exemplar.label)
        # ... and when a server ignores the stop string and the model runs on.
        run_on = f"{completion}{prompt.stop[0]} what else?\n{prompt.cue} nothing."
        assert prompt.parse(run_on) == (exemplar.rationale, exemplar.label)


@pytest.mark.parametrize("name", DATASETS)
def test_exemplar_labels_are_balanced(name):
    prompt = prompts.load(name)
    counts = collections.Counter(_label_class(prompt, exemplar) for exemplar in prompt.exemplars)
    assert max(counts.values()) - min(counts.values()) <= 1
    expected = {"labels": len(prompt.labels), "choices": 5, "expression": 4}
    assert len(counts) == expected[prompt.answer]


def _label_class(prompt, exemplar):
    if prompt.answer == "labels":
        return exemplar.label
    if prompt.answer == "choices":
        return labels.shown("choices", exemplar.label, exemplar.input)[:3]
    depth, outermost = 0, []
    for sign in exemplar.label[1:-1]:
        depth += (sign == "(") - (sign == ")")
        if depth == 0 and sign in "+-*/":
            outermost.append(sign)
    assert len(outermost) == 1
    return outermost[0]


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("mode", ["few_shot", "zero_shot"])
@pytest.mark.parametrize("label_given", [False, True])
def test_rendering(name, mode, label_given):
    prompt, record = prompts.load(name), QUESTIONS[name]
    text = prompt.render(record, mode, label_given)
    blocks = text.split(prompt.separator)
    assert len(blocks) == 1 + (len(prompt.exemplars) if mode == "few_shot" else 1)
    assert text.endswith(f"\n{prompt.cue}")  # and no space behind it
    shown = labels.shown(prompt.answer, record.label, record.input)
    assert (f"The answer is {shown}. " in blocks[-1]) == label_given
    if mode == "few_shot":
        for block, exemplar in zip(blocks[:-1], prompt.exemplars, strict=True):
            assert block.endswith(f"\n{prompt.cue} {prompt.write_completion(exemplar)}")
    else:
        assert blocks[0] == prompt.instruction
    if "{red}" in record.input:
        assert "Ben has 3 {red} pens" in blocks[-1]


def test_one_block_of_each_form():
    assert (
        prompts.load("cqa")
        .render(QUESTIONS["cqa"])
        .endswith("\n\nQ: What barks?\nAnswer Choices:\n(a) dog\n(b) fish\nA:")
    )
    assert (
        prompts.load("svamp")
        .render(QUESTIONS["svamp"])
        .endswith("\n\nQ: Ben has 3 {red} pens How many pens?\nA:")
    )
    assert (
        prompts.load("esnli")
        .render(QUESTIONS["esnli"])
        .endswith("\n\nPremise: Rain fell.\nHypothesis: It was dry.\nReasonings:")
    )
    assert (
        prompts.load("anli1")
        .render(QUESTIONS["anli1"])
        .endswith("\n\nPremise: Rain fell.\nHypothesis: It was dry.\nAnswer:")
    )


def test_chat_sends_the_same_text_in_one_message():
    prompt, record = prompts.load("cqa"), QUESTIONS["cqa"]
    chat = Recipe(prompt, "m").request(record).body
    plain = Recipe(prompt, "m", api="completions").request(record).body
    assert [message["role"] for message in chat["messages"]] == ["system", "user"]
    assert chat["messages"][1]["content"] == plain["prompt"]
    assert chat["stop"] == ["\n\nQ:"] and chat["temperature"] == 0.0 and chat["max_tokens"] == 128


def test_equal_questions_are_one_request_whatever_their_id():
    record = QUESTIONS["cqa"]
    twice = [record, dataclasses.replace(record, id="8")]
    assert [request.id for request in unique(Recipe(prompts.load("cqa"), "m"), twice)] == ["7"]


@pytest.mark.parametrize(
    "change", [{"model": "other"}, {"temperature": 0.5}, {"extra": (("seed", 1),)}, {"api": "chat"}]
)
def test_every_setting_changes_the_key(change):
    recipe = Recipe(prompts.load("cqa"), "m", api="completions")
    changed = dataclasses.replace(recipe, **change)
    assert recipe.request(QUESTIONS["cqa"]).sha != changed.request(QUESTIONS["cqa"]).sha


def test_null_removes_a_request_field():
    extra = (("max_tokens", None), ("max_completion_tokens", 99))
    body = Recipe(prompts.load("cqa"), "m", extra=extra).request(QUESTIONS["cqa"]).body
    assert "max_tokens" not in body and body["max_completion_tokens"] == 99


OWN = {
    "fields": ["text"],
    "question": "Review: {text}",
    "cue": "Verdict:",
    "completion": "{rationale} So the answer is {answer}.",
    "given": "It is {answer}.",
    "instruction": "Judge the review.",
    "answer": "labels",
    "labels": ["good", "bad"],
    "parser": "phrase",
    "stop": ["\n\nReview:"],
    "max_tokens": 50,
    "exemplars": [{"input": "It broke.", "rationale": "Broken is bad.", "label": "bad"}],
}


def _written(tmp_path, changes):
    path = tmp_path / "reviews.json"
    fields = {name: value for name, value in (OWN | changes).items() if value is not None}
    path.write_text(json.dumps(fields), encoding="utf-8")
    return str(path)


def test_a_new_dataset_is_one_file(tmp_path):
    prompt = prompts.load(_written(tmp_path, {}))
    assert prompt.name == "reviews"
    assert prompt.render(Record("1", "Fine.", "good")) == (
        "Review: It broke.\nVerdict: Broken is bad. So the answer is bad.\n\n"
        "Review: Fine.\nVerdict:"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cue": None}, "field 'cue' is missing"),
        ({"tone": "kind"}, "unknown field 'tone'"),
        ({"cue": 3}, "field 'cue' must be text"),
        ({"stop": "x"}, "field 'stop' must be a list of texts"),
        ({"max_tokens": 0}, "field 'max_tokens' must be a whole number above 0"),
        ({"answer": "word"}, "field 'answer' must be one of labels, choices, expression, text"),
        ({"parser": "mine"}, "field 'parser' must be one of cqa"),
        ({"labels": []}, "field 'labels' must list the labels"),
        ({"question": "Review:"}, "field 'question' must hold {text}"),
        ({"like": "nothing"}, "field 'like' must be one of anli1"),
        ({"exemplars": [{"input": "x"}]}, "exemplar 1 must hold the texts"),
        (
            {"exemplars": [{"input": "x", "rationale": "r", "label": "fair"}]},
            "exemplar 1: label 'fair' is not in labels",
        ),
        ({"completion": "{answer}: {rationale}"}, "exemplar 1 does not read back"),
    ],
)
def test_a_broken_prompt_file_is_named(tmp_path, changes, message):
    with pytest.raises(UserError, match=r"reviews\.json: ") as raised:
        prompts.load(_written(tmp_path, changes))
    assert message in str(raised.value)


def test_unknown_prompt():
    with pytest.raises(UserError, match=r"cqaa: no such prompt; built-in: anli1, asdiv"):
        prompts.load("cqaa")


def test_an_input_of_another_form_is_named():
    with pytest.raises(UserError, match="its input has 1 parts, the prompt esnli needs 2"):
        prompts.load("esnli").render(Record("3", "no hypothesis", "neutral"))
    with pytest.raises(UserError, match="record 3: label 'cat' is none of the choices"):
        prompts.load("cqa").render(Record("3", "Q?\n(a) dog", "cat"), label_given=True)
    with pytest.raises(UserError, match="record 3: has no gold label to give; leave --label_given"):
        prompts.load("esnli").render(Record("3", "p</s>h", ""), label_given=True)
