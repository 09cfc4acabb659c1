"""What the report card prints."""

from sbs_jax.datasets.records import Record
from sbs_jax.teacher import prompts
from sbs_jax.teacher.report_card import ReportCard
from sbs_jax.teacher.voting import Answer


def _card(*pairs: tuple[str, str]) -> str:
    """The card of (gold label, answer) pairs; a blank answer could not be read."""
    card = ReportCard(prompts.load("demo"))
    for gold, label in pairs:
        card.add(Answer(Record("1", "can a b c ?", gold), "why", label, int(bool(label)), 1))
    return str(card)


def test_labels_that_are_never_gold_and_answers_without_one() -> None:
    lines = _card(("yes", "yes"), ("yes", ""), ("yes", "no")).splitlines()
    assert lines[2:] == [
        "  no possible label   1 answers",
        "  never gold no       said 1 times",
        "  gold yes            0.3333 [0.0615, 0.7923] (1/3), said 1 times",
    ]


def test_nothing_is_scored_without_gold_labels() -> None:
    assert _card(("", "yes"), ("", "")) == "not scored: no record has an answer and a gold label"
