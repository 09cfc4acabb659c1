"""Several readings -> one answer."""

import pytest

from sbs_jax.datasets.records import Record
from sbs_jax.teacher import prompts
from sbs_jax.teacher.answer_parser import Reading
from sbs_jax.teacher.voting import Answer, Filters, vote

RECORD = Record("1", "q", "gold")
NONE = Reading("", "", "no_answer")


def said(label, rationale="because", outcome="exact"):
    return Reading(rationale, label, outcome)


@pytest.mark.parametrize(
    ("readings", "label", "votes"),
    [
        ([said("a"), said("b"), said("b")], "b", 2),
        ([said("a"), said("b")], "a", 1),  # of equals the first
        ([NONE, NONE, said("b")], "b", 1),
        ([NONE], "", 0),
        ([], "", 0),
    ],
)
def test_majority(readings, label, votes):
    answer = vote("text", RECORD, readings)
    assert (answer.label, answer.votes, answer.samples) == (label, votes, len(readings))


def test_an_unreadable_sample_lowers_the_agreement():
    assert vote("text", RECORD, [said("a"), NONE, said("a"), said("b")]).agreement == 0.5


def test_equal_values_vote_together():
    readings = [said("(2)"), said("(3 + 4)"), said("(4 + 3)")]
    assert vote("equation", RECORD, readings).label == "(3 + 4)"
    assert vote("text", RECORD, readings).label == "(2)"


def test_the_rationale_supports_the_label_in_the_shortest_way():
    readings = [
        said("a", "short"),
        said("b", "quite long indeed"),
        said("b", "rather long"),
        said("b", "x", "last_label"),  # shorter, but from a lower rung
        said("b", " "),  # and this one explains nothing
    ]
    assert vote("text", RECORD, readings).rationale == "rather long"


def test_several_rationales_for_the_label():
    readings = [said("a", "x y z"), said("b", "no"), said("a", "x y"), said("a", "x y"), said("a")]
    answer = vote("text", RECORD, readings, rationales=3)
    assert answer.kept_rationales == ("x y", "x y z", "because")  # none twice, none of the loser
    assert vote("text", RECORD, readings, rationales=2).more == ("x y z",)
    assert vote("text", RECORD, readings).kept_rationales == ()
    assert "rationales" not in vote("text", RECORD, readings).to_json()
    prompt = prompts.load("demo")
    (kept,) = Filters(min_words=2).apply(prompt, [answer])
    assert kept.kept_rationales == ("x y", "x y z")  # each passes the filters by itself
    (none,) = Filters(min_words=3).apply(prompt, [answer])
    assert (none.kept_rationale, none.kept_rationales) == (None, ())


def test_what_is_kept():
    answer = Answer(RECORD, "because", "a", 1, 1)
    assert (answer.kept_rationale, answer.kept_label) == ("because", "a")
    unreadable = Answer(RECORD, "", "", 0, 1)
    assert (unreadable.kept_rationale, unreadable.kept_label) == (None, " ")
    unanswered = Answer(RECORD, "", "", 0, 0)
    assert (unanswered.kept_rationale, unanswered.kept_label) == (None, None)
