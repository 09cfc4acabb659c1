"""The confidence that every final evaluation writes beside its answers."""

import json
import math
import pathlib

import pytest
from helpers.runs import config_of

from sbs_jax.distributed.partitioning import Partitioner
from sbs_jax.evaluation import confidence
from sbs_jax.evaluation.confidence import ClosedSet
from sbs_jax.evaluation.evaluator import Evaluator
from sbs_jax.inference import student
from sbs_jax.input_pipeline import pipeline, vocabularies
from sbs_jax.training import trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny finished run on the two-hop questions."""
    config = config_of(tmp_path_factory.mktemp("run") / "run", eval_batch_size=8)
    trainer.train(config)
    return config


def predictions(config, split: str) -> list[dict]:
    (path,) = folder(config).glob(f"predictions-*-{split}-*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def folder(config) -> pathlib.Path:
    return pathlib.Path(config.model_dir)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_final_evaluation_writes_confidences_and_judges_the_teacher(run, split):
    rows = predictions(run, split)
    assert len(rows) == 20
    for row in rows:
        shares = row["label_probabilities"]
        assert shares.keys() == {"no", "yes"}
        assert 0 < row["confidence"] <= 1
        if row["label"] in shares:
            assert row["confidence"] == shares[row["label"]] == max(shares.values())
            assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert row["teacher_correct"] is (row["teacher_label"] == row["gold"])


def test_the_answers_are_those_without_confidence(run):
    partitioner = Partitioner()
    loaded = student.find_run(run.model_dir)
    evaluator = Evaluator(run, pipeline.Source.of(run), partitioner)
    plain = evaluator.evaluate("test", loaded.params(partitioner))
    assert "confidence" not in plain.predictions[0]
    kept = predictions(run, "test")
    assert [row["label"] for row in plain.predictions] == [row["label"] for row in kept]
    assert plain.pace and 0 < plain.pace < 10


def test_a_label_longer_than_the_decoding_length_is_no_choice(run):
    """Greedy decoding would cut it, so that the trie must not answer with it."""
    partitioner = Partitioner()
    loaded = student.find_run(run.model_dir)
    short = Evaluator(
        config_of(folder(run), eval_batch_size=8, max_decode_length=1),
        pipeline.Source.of(run),
        partitioner,
    )
    params = loaded.params(partitioner)
    final, plain = (short.evaluate("test", params, final=final) for final in (True, False))
    assert [r["label"] for r in final.predictions] == [r["label"] for r in plain.predictions]
    assert final.truncated_answers == plain.truncated_answers
    assert "label_probabilities" not in final.predictions[0]


def test_a_label_ends_at_its_first_eos():
    """As a student's output does: the second one could never be told from the first."""
    vocabulary = vocabularies.load("demo")
    choices = ClosedSet.of(["no", "yes", "yes</s>no"], vocabulary)
    assert choices.labels == ["no", "yes"]


def test_the_pace_of_decoding_is_logged_with_the_final_scores(run):
    lines = (folder(run) / "metrics.jsonl").read_text().splitlines()
    logged = {name: row[name] for row in map(json.loads, lines) for name in row}
    for split in ("validation", "test"):
        assert 0 < logged[f"{split}/seconds_per_question"] < 10


@pytest.mark.parametrize(
    ("scores", "answer", "answer_score", "expected"),
    [
        ([math.log(0.6), math.log(0.2)], "a", None, (0.75, {"a": 0.75, "b": 0.25})),
        ([math.log(0.1), math.log(0.3)], "b", None, (0.75, {"a": 0.25, "b": 0.75})),
        ([-700.0, -701.0], "a", None, (1 / (1 + math.exp(-1)),) * 1 + (None,)),
        ([-1e4, -2e4], "a", None, (1.0, {"a": 1.0, "b": 0.0})),
        # An output that is none of theirs competes with them; where its text is none either, the
        # student is sure of no label.
        ([math.log(0.2), math.log(0.2)], "a", math.log(0.4), (0.5, {"a": 0.25, "b": 0.25})),
        ([math.log(0.2), math.log(0.2)], "z", math.log(0.4), (0.0, {"a": 0.25, "b": 0.25})),
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
