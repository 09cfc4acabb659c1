"""How sure a model is of its label: from tokens in any shape to filter and report card."""

import dataclasses
import json
import math

import pytest
from helpers import annotate_cli
from helpers.annotate_cli import rows
from helpers.stub_server import Raw, completion

from sbs_jax.datasets.records import Record
from sbs_jax.teacher import answer_parser, confidence, prompts, replies

pytest.importorskip("openai")

PIECES = ["It", " is", " wet", ".", " So", " the", " answer", " is", " (", "b", ")", " sea", "."]
SURE = [-0.5] * 9 + [math.log(0.8), 0.0, math.log(0.5), -2.0]
TOKENS = list(zip(PIECES, SURE, strict=True))

PARTS = [
    ("So the answer is (b) sea.", "sea", 0.5),
    ("So the answer is (b) sea.", "(b) sea", math.exp(-0.5) * 0.8 * 0.5),
    ("So the answer is (b) sea.", "b", 0.8),
    ("So the answer is (b) sea.", "", None),
    ("another text", "text", None),
    ("So the answer is (b) sea.", "lake", None),
]


@pytest.mark.parametrize(("sentence", "wording", "value"), PARTS)
def test_the_probability_of_the_label(sentence, wording, value):
    assert confidence.of(TOKENS, sentence, wording) == (
        None if value is None else pytest.approx(value)
    )
    assert confidence.of([], sentence, wording) is None


WRITTEN = [
    ('say "hi" now', r"say \"hi\" now"),
    ("C:\\temp", r"C:\\temp"),
    ("two\nlines", "two"),  # the label ends with its line
    ("two\n lines", "two"),
    ("café", "café"),
]


@pytest.mark.parametrize(("label", "written"), WRITTEN)
def test_a_label_that_json_escapes(label, written):
    prompt = dataclasses.replace(prompts.load("cqa"), answer="text", labels=())
    text = json.dumps({"rationale": "He greets.", "answer": label}, ensure_ascii=False)
    reading = answer_parser.read(prompt, Record("1", "q", "x"), text)
    assert reading.outcome == "json"
    part = range(start := text.index(written), start + len(written))
    tokens = [(letter, -0.01 if i in part else -1.0) for i, letter in enumerate(text)]
    sure = confidence.of(tokens, reading.sentence, reading.wording)
    assert sure == pytest.approx(math.exp(-0.01 * len(written)))


CHAT = {"content": [{"token": t, "logprob": p, "top_logprobs": []} for t, p in TOKENS]}
PLAIN = {"tokens": PIECES, "token_logprobs": SURE, "text_offset": []}
SHAPES = [
    (CHAT, TOKENS),
    (PLAIN, TOKENS),
    ({"tokens": ["a"], "token_logprobs": [None]}, []),
    ({"content": None}, []),
    ({"content": ["a"]}, []),
    (None, []),
    ([], []),
]


@pytest.mark.parametrize(("logprobs", "tokens"), SHAPES)
def test_shapes(logprobs, tokens):
    body = {"choices": [{"message": {"content": "a"}, "logprobs": logprobs}]}
    assert list(replies.read_response(body).choices[0].tokens) == tokens


@pytest.mark.parametrize("value", [None, 3, [3], [["a", "b"]], [["a", 1, 2]]])
def test_odd_lines_have_no_tokens(value):
    assert confidence.tokens_of(value) == []


def test_confidence_reaches_filter_and_report_card(stub, tmp_path, capsys):
    def answer(call, sample):
        sure = 0.95 if len(stub.calls) % 2 else 0.35
        text, label = "It is so. So the answer is", " yes"
        body = completion(call, [text + label + "."], "r")
        tokens = [(text, -1.0), (label, math.log(sure)), (".", 0.0)]
        body["choices"][0]["logprobs"] = {
            "content": [{"token": token, "logprob": value} for token, value in tokens]
        }
        return Raw(200, json.dumps(body).encode())

    stub.script = answer
    flags = {"logprobs": True, "min_confidence": 0.5, "concurrency": 1}
    assert annotate_cli.run(stub, tmp_path, **flags) == 0
    assert all(call.body["logprobs"] is True for call in stub.calls)
    answers = rows(tmp_path / "out" / "rationales.jsonl")
    assert {row["confidence"] for row in answers} == {0.95, 0.35}
    assert all((row["label"] is None) == (row["confidence"] == 0.35) for row in answers)
    card = json.loads((tmp_path / "out" / "report_card.json").read_text())["train"]
    assert [level["mean_confidence"] for level in card["confidence"]] == [0.95, 0.35]
    assert "sure 0.9 and more" in capsys.readouterr().out
