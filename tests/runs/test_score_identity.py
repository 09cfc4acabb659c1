"""A score's fingerprint changes with everything that makes it another score, and nothing else."""

import functools

import pytest

from sbs_jax.datasets import registry
from sbs_jax.runs import score_identity
from sbs_jax.runs.score_identity import identify


def exact(prediction: str, gold: str) -> bool:
    return prediction == gold


def stripped(prediction: str, gold: str) -> bool:
    return prediction.strip() == gold


SPLIT = {
    "inputs": ["one", "two", "three"],
    "student_inputs": ["one", "two", "three"],
    "golds": ["a", "b", "a"],
    "metric": "text",
    "max_decode_length": 16,
}


@pytest.mark.parametrize(
    ("changes", "same_score", "same_questions"),
    [
        ({}, True, True),
        (
            {
                "inputs": ["two", "one", "three"],
                "student_inputs": ["two", "one", "three"],
                "golds": ["b", "a", "a"],
            },
            True,
            True,
        ),
        ({"golds": ["a", "b", "b"]}, False, False),
        ({"golds": ["b", "a", "a"]}, False, False),
        ({"inputs": ["one", "two", "3"], "student_inputs": ["one", "two", "3"]}, False, False),
        (
            {"inputs": ["one", "two"], "student_inputs": ["one", "two"], "golds": ["a", "b"]},
            False,
            False,
        ),
        ({"student_inputs": ["one\nbecause", "two", "three"]}, False, True),
        ({"metric": "equation"}, False, True),
        ({"metric": exact}, False, True),
        ({"max_decode_length": 63}, False, True),
    ],
)
def test_fingerprints(changes, same_score, same_questions):
    before, after = identify(**SPLIT), identify(**{**SPLIT, **changes})
    assert (before.fingerprint == after.fingerprint) == same_score
    assert (before.questions == after.questions) == same_questions


def test_a_metric_function_counts_by_its_source():
    first = identify(**{**SPLIT, "metric": exact})
    corrected = stripped
    corrected.__name__ = "exact"
    assert identify(**{**SPLIT, "metric": corrected}).fingerprint != first.fingerprint
    assert identify(**{**SPLIT, "metric": exact}) == first


def test_functions_without_source_count_by_name():
    assert identify(**{**SPLIT, "metric": max}) != identify(**{**SPLIT, "metric": min})


def test_callable_objects_count_by_their_class():
    first = identify(**{**SPLIT, "metric": functools.partial(exact)})
    assert identify(**{**SPLIT, "metric": functools.partial(exact)}) == first


def test_scores_of_earlier_versions_are_only_like_each_other():
    old, new, other = {"n": 1}, {"fingerprint": "a"}, {"fingerprint": "b"}
    assert score_identity.same(old, {"n": 2}) and score_identity.same(new, dict(new))
    assert not score_identity.same(old, new) and not score_identity.same(new, other)
    rows = [new, old, other, dict(new), dict(old)]
    assert score_identity.groups(rows) == [[new, new], [old, old], [other]]


def test_what_a_run_is_scored_on_is_fingerprinted_by_split_and_metric(tmp_path):
    def noted(metric="text", **more):
        dataset = registry.add_dataset("noted", records=tmp_path, metric=metric, **more)
        registry.remove("noted")
        return score_identity.of_dataset(dataset)

    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"input": "q", "label": "a"}\n')
    before = noted()
    assert noted() == before
    assert set(before.items() - noted(exact).items()) == {
        ("metric_fingerprint", before["metric_fingerprint"])
    }
    assert set(noted(carve_validation=0.1)) == {"test_fingerprint", "metric_fingerprint"}
    for split in ("validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"input": "r", "label": "a"}\n')
        after = noted()
        assert [name for name in before if before[name] != after[name]] == [f"{split}_fingerprint"]
        before = after
