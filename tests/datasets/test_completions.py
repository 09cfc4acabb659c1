"""Parsers: equal to the original's on every released output, and calm on any text."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_jax.datasets.completions import PARSERS, phrase

_RELEASED = [("cqa", "train"), ("cqa", "test"), ("svamp", "train"), ("svamp", "test")]


def _canonical(pairs: list[tuple[str, str]]) -> bytes:
    return b"".join(f"{rationale}\x1f{label}\x1e".encode() for rationale, label in pairs)


@pytest.mark.parametrize(("dataset", "split"), _RELEASED)
def test_hash_of_every_released_output(shared, release_dir, dataset: str, split: str) -> None:
    recorded = json.loads((shared / "vectors" / "parsed.json").read_text())[f"{dataset}/{split}"]
    total = b""
    for shard in recorded["shards"]:
        name = f"datasets/{dataset}/llm/{split}_CoT_{shard['shard']}.json"
        pairs = [PARSERS[dataset](text) for text in json.loads((release_dir / name).read_text())]
        assert len(pairs) == shard["count"]
        assert hashlib.sha256(_canonical(pairs)).hexdigest() == shard["sha256"], name
        total += _canonical(pairs)
    assert hashlib.sha256(total).hexdigest() == recorded["sha256"]


def test_every_odd_case(shared) -> None:
    cases = json.loads((shared / "vectors" / "odd_cases.json").read_text())
    assert len(cases) == 72
    for case in cases:
        parser = PARSERS["anli" if case["dataset"] == "anli1" else case["dataset"]]
        assert parser(case["raw"]) == (case["rationale"], case["label"]), case


# Invented texts, one per rule; the expected pairs follow the original's data_utils.py.
_RULES = [
    ("cqa", "Zorns nap. So the answer is (c) reef.\n\nQ: So the answer is", ("Zorns nap.", "reef")),
    ("cqa", "R. So the answer is (a) reef. (b) cave.", ("R.", "reef")),
    ("cqa", "R. So the answer is (a) .", ("R.", "")),
    ("cqa", "R. So the answer is (a)", ("R.", " ")),
    ("cqa", "R. So the answer is reef.", ("R.", " ")),
    ("cqa", "No phrase.", (" ", " ")),
    ("cqa", "So the answer is (a) x. So the answer is (b) y.", (" ", " ")),
    ("cqa", " R. So the answer is (a) x", (" R.", "x")),
    ("cqa_neox", " R. So the answer is (a) x", ("R.", "x")),
    ("cqa_neox", " No phrase.", (" ", " ")),
    ("svamp", "R. The answer is (5 * 6) + (5 * 7).\n\nQ: x", ("R.", "(5 * 6) + (5 * 7)")),
    ("svamp", "R. The answer is 30.", ("R.", " ")),
    ("svamp", "No phrase.", (" ", " ")),
    ("svamp", "\nR. The answer is (1).", ("\nR.", "(1)")),
    ("svamp_neox", "\nR. The answer is (1).", ("R.", "(1)")),
    ("esnli", "R.\nAnswer: neutral\n\nPremise: x", ("R.", "neutral")),
    ("esnli", "R.\nAnswer: neutral\n\nPre", ("R.", "neutral\n\nPre")),
    ("esnli", "R.\nAnswer:neutral", ("R.", " ")),
    ("esnli", " R.", (" R.", " ")),
    ("esnli_neox", " R.\nAnswer: neutral", ("R.", "neutral")),
    ("anli", "R. So the answer is neutral.\n\nPremise: So the answer is", ("R.", "neutral")),
    ("anli", "R. So the answer is neutral", ("R.", "neutra")),
    ("anli", "R. The answer is neutral.", ("", "")),
    ("anli_neox", " R. The answer is neutral.", ("R.", "neutral")),
    ("anli_neox", " R. So the answer is neutral.", ("R.", "neutral")),
    ("anli_neox", "nothing", ("", "")),
    ("phrase", "R. So the answer is (b) a reef.\nMore\n\nQ: x", ("R.", "(b) a reef")),
    ("phrase", " R. So the answer is\nyes.", ("R.", "yes")),
    ("phrase", "So the answer is a. No. So the answer is b.", ("So the answer is a. No.", "b")),
    ("phrase", "R. So the answer is 3.5.", ("R.", "3.5")),
    ("phrase", "R. So the answer is .", (" ", " ")),
    ("phrase", "No idea.", (" ", " ")),
]


@pytest.mark.parametrize(("parser", "text", "pair"), _RULES)
def test_rules(parser: str, text: str, pair: tuple[str, str]) -> None:
    assert PARSERS[parser](text) == pair


def test_phrase_can_be_told_another_format() -> None:
    text = "R. Hence: yes.\nItem: x"
    assert phrase(text, answer="Hence:", stop="Item:") == ("R.", "yes")


_PIECES = ["So the answer is", "The answer is", "Answer: ", "Premise:", "Q:", "(a)", ".", "\n", " "]


@given(st.lists(st.sampled_from(_PIECES) | st.text(max_size=5), max_size=12).map("".join))
def test_no_text_breaks_a_parser(text: str) -> None:
    for parser in PARSERS.values():
        rationale, label = parser(text)
        assert isinstance(rationale, str) and isinstance(label, str)
