"""What a wording means as a label, and which part of it is the label."""

import pytest

from sbs_jax.teacher import labels

QUESTION = "Where?\nAnswer Choices:\n(a) pond\n(b) lake"


def test_a_free_text_is_its_own_label_and_an_empty_one_is_none() -> None:
    assert labels.meant("text", (), "", " Pond. ") == "Pond"
    assert labels.meant("text", (), "", "") is None


@pytest.mark.parametrize(
    ("wording", "part"),
    [("(a) Pond", "Pond"), ("Pond it is", "Pond"), ("\n**pool**\nmore", "pool"), (" \n", "")],
)
def test_the_written_part_of_a_wording(wording: str, part: str) -> None:
    assert labels.written_part(wording, "pond") == part


@pytest.mark.parametrize(
    ("wording", "label", "contradicts"),
    [
        ("(a) pond", "pond", False),
        ("a) pond", "pond", False),
        ("(a) lake", "lake", True),
        ("option (a) lake", "lake", True),
        ("option (a)", "pond", False),
        ("a) pond (b)", "pond", True),
        ("option option (a)", "pond", False),
    ],
)
def test_a_letter_and_a_text_of_two_choices(wording: str, label: str, contradicts: bool) -> None:
    assert labels.meant("choices", (), QUESTION, wording) == label
    assert labels.contradicts("choices", QUESTION, wording) is contradicts


def test_a_label_that_begins_like_a_lead_in_is_found() -> None:
    assert labels.meant("labels", ["option", "yes"], "x", "option yes") == "option"
    assert labels.meant("labels", ["a lake", "lake"], "x", "a lake") == "a lake"
