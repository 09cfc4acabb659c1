"""Where the closed set of labels comes from, and what goes to the teacher."""

import json

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
