"""Probabilities over a closed set, where the set comes from, and what goes to the teacher."""

import json
import math

import pytest

from sbs_jax.errors import UserError
from sbs_jax.inference import confidence


def predictions(folder, split, golds, step=5):
    lines = (json.dumps({"id": str(i), "gold": gold, "label": "x"}) for i, gold in enumerate(golds))
    path = folder / f"predictions-d_label-{split}-{step}.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("validation", "test", "labels"),
    [
        (["yes", "no"] * 5, ["no"] * 4, ["no", "yes"]),
        (["a"] * 3 + ["b"] * 3, ["c"] * 3, ["a", "b", "c"]),
        (["a"] * 10, ["a"] * 10, []),  # one label is no choice
        ([f"({i} + 1)" for i in range(30)], [], []),  # open answers
        ([f"{i % 60}" for i in range(600)], [], []),  # too many to be a closed set
        (["a", "b"], ["a"], []),  # too few questions to say
        ([None, "a", "b"] * 6, [3], ["a", "b"]),
    ],
)
def test_the_closed_set_is_that_of_the_runs_predictions(tmp_path, validation, test, labels):
    predictions(tmp_path, "validation", validation)
    predictions(tmp_path, "test", test)
    predictions(tmp_path, "test", ["of", "another", "step"] * 9, step=6)
    assert confidence.closed_set(tmp_path, 5) == labels
    assert confidence.closed_set(tmp_path, 7) == []


@pytest.mark.parametrize(
    ("scores", "answer", "answer_score", "expected"),
    [
        ([math.log(0.6), math.log(0.2)], "a", None, (0.75, {"a": 0.75, "b": 0.25})),
        ([math.log(0.1), math.log(0.3)], "b", None, (0.75, {"a": 0.25, "b": 0.75})),
        ([-700.0, -701.0], "a", None, (1 / (1 + math.exp(-1)),) * 1 + (None,)),
        ([-1e4, -2e4], "a", None, (1.0, {"a": 1.0, "b": 0.0})),
        # An output that is none of the labels competes with them.
        ([math.log(0.2), math.log(0.2)], "z", math.log(0.4), (0.5, {"a": 0.25, "b": 0.25})),
    ],
)
def test_confidence_is_a_share_of_the_labels_probability(scores, answer, answer_score, expected):
    fields = confidence.among(["a", "b"], scores, answer, answer_score)
    assert fields["confidence"] == pytest.approx(expected[0], abs=1e-6)
    if expected[1]:
        assert fields["label_probabilities"] == pytest.approx(expected[1], abs=1e-6)


def test_an_open_answer_has_the_probability_of_its_output():
    assert confidence.of_open_answer(math.log(0.25)) == {"confidence": 0.25}
    assert confidence.of_open_answer(-1e5) == {"confidence": 0.0}


def test_unsure_questions_become_input_of_annotate(tmp_path):
    rows = [
        {"id": "1", "input": "q 1", "gold": "a", "label": "b", "confidence": 0.4, "note": [1]},
        {"id": "2", "input": "q 2", "label": "b", "confidence": 0.6, "rationale": "mine"},
        {"id": "3", "input": "q 3\u2028", "label": "b", "confidence": 0.59,
         "label_probabilities": {"b": 0.59}, "teacher_rationale": "t"},
    ]  # fmt: skip
    (tmp_path / "out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = tmp_path / "unsure.jsonl"
    assert confidence.pass_to_teacher(tmp_path / "out.jsonl", 0.6, target) == 2
    assert [json.loads(line) for line in target.read_text().split("\n")[:-1]] == [
        {"id": "1", "input": "q 1", "note": [1], "label": "a"},
        {"id": "3", "input": "q 3\u2028", "teacher_rationale": "t"},
    ]
    assert confidence.pass_to_teacher(tmp_path / "out.jsonl", 0.0, target) == 0
    assert target.read_text() == ""


def test_answers_without_confidence_are_named(tmp_path):
    (tmp_path / "out.jsonl").write_text('{"id": "1", "input": "x", "label": "y"}\n')
    with pytest.raises(UserError, match=r"out\.jsonl:1: no field confidence; run sbs predict"):
        confidence.pass_to_teacher(tmp_path / "out.jsonl", 0.5, tmp_path / "o")
