"""Thoughts as rationales, and rationales that are too long."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_jax.datasets.records import Record
from sbs_jax.teacher import prompts
from sbs_jax.teacher.journal import Journal
from sbs_jax.teacher.parse_report import ParseReport
from sbs_jax.teacher.reader import Reader, Rules, shortened

RECORD = Record("1", "p</s>h", "neutral")


def read(folder, rules, **row):
    line = {"key": "sha-0", "params": {}, "finish_reason": "stop"} | row
    (folder / "journal.jsonl").write_text(json.dumps(line) + "\n")
    report = ParseReport()
    with Journal(folder) as journal:
        reader = Reader(prompts.load("esnli"), journal, lambda record: "sha", 1, rules)
        (answer,) = reader.answers([RECORD], report)
    return answer, report


TEXTS = [
    ({"text": "Answer: neutral", "thoughts": "It may be."}, "It may be."),
    ({"text": "<think>It may be.</think>\nAnswer: neutral"}, "It may be."),
    ({"text": "It may be.</think>neutral"}, "It may be."),
    ({"text": "[THINK]hm[/THINK]R.\nAnswer: neutral"}, "R."),  # it has a rationale
    ({"text": "R.\nAnswer: neutral", "thoughts": "It may be."}, "R."),
    ({"text": "Answer: neutral"}, ""),
]


@pytest.mark.parametrize(("row", "rationale"), TEXTS)
def test_thoughts_become_rationales_only_where_asked_for(tmp_path, row, rationale):
    answer, report = read(tmp_path, Rules(thoughts_as_rationale=True), **row)
    assert (answer.label, answer.rationale) == ("neutral", rationale)
    assert report.thoughts == ("hm" in str(row) or "may be" in str(row))
    answer, _ = read(tmp_path, Rules(), **row)
    assert answer.rationale == ("R." if rationale == "R." else "")


def test_a_refusal_is_counted_apart(tmp_path):
    answer, report = read(tmp_path, Rules(), text="", refusal="I will not.")
    assert not answer.label and report.outcomes == {"refused": 1}


def test_most_answers_cut_off_gives_advice(tmp_path):
    _, report = read(tmp_path, Rules(), text="<think>hm", finish_reason="length")
    assert "raise --max_tokens" in str(report)


SHORTENED = [
    ("One two. Three four. Five.", 5, "One two. Three four."),
    ("One two. Three four. Five.", 100, "One two. Three four. Five."),
    ("One two!\nThree four.", 3, "One two!"),
    ("One two three four", 2, "One two"),
    ("Onetwothreefour", 2, "Onetwoth"),
    ('He said "no." Then he left.', 4, 'He said "no."'),
]


@pytest.mark.parametrize(("text", "tokens", "short"), SHORTENED)
def test_rationales_end_at_a_sentence(text, tokens, short):
    assert shortened(text, tokens) == short


@given(st.text(alphabet="ab .!?\n", max_size=60), st.integers(1, 20))
def test_a_short_rationale_is_a_start_that_fits(text, tokens):
    short = shortened(text, tokens)
    assert text.strip().startswith(short) and len(short) <= 4 * tokens
