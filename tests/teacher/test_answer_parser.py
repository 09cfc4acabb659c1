"""From a completion to rationale and label: every rung, every failure, and nothing that crashes."""

import collections
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbs_jax.datasets import completions
from sbs_jax.datasets.records import Record
from sbs_jax.datasets.release import Release
from sbs_jax.metrics import accuracy
from sbs_jax.teacher import answer_parser, labels, prompts

PROMPTS = {name: prompts.load(name) for name in prompts.names()}

CQA = Record(
    "1", "Where?\nAnswer Choices:\n(a) bank\n(b) river bank\n(c) Mill\n(d) sea\n(e) a", "sea"
)
NLI = Record("1", "p</s>h", "neutral")
SUM = Record("1", "How many?", "( 3.0 + 4.0 )")

# What a teacher may write: (dataset, record, text) -> (rationale, label, outcome).
CASES = [
    # the released form
    ("cqa", CQA, "It is wet. So the answer is (d) sea.", "It is wet.", "sea", "exact"),
    ("svamp", SUM, "3 and 4. The answer is (3 + 4).", "3 and 4.", "(3 + 4)", "exact"),
    ("esnli", NLI, "It may be.\nAnswer: neutral", "It may be.", "neutral", "exact"),
    ("anli1", NLI, "It may be. So the answer is neutral.", "It may be.", "neutral", "exact"),
    # the cue repeated, a leading space, hidden thoughts
    ("anli1", NLI, " Answer: Maybe. So the answer is neutral.", "Maybe.", "neutral", "exact"),
    ("cqa", CQA, "<think>(a)?</think>\nWet. So the answer is (d) sea.", "Wet.", "sea", "exact"),
    # spelling
    ("cqa", CQA, "X. So the answer is (c) mill.", "X.", "Mill", "spelling"),
    ("cqa", CQA, "X. So the answer is (b) River bank, of course.", "X.", "river bank", "spelling"),
    ("esnli", NLI, "R.\nAnswer: Neutral.", "R.", "neutral", "spelling"),
    ("anli1", NLI, "R. So the answer is Neutral.", "R.", "neutral", "spelling"),
    ("svamp", SUM, "R. The answer is (3 × 4).", "R.", "(3 * 4)", "spelling"),
    # other wordings
    ("cqa", CQA, "X. Therefore, the answer is (d).", "X.", "sea", "phrase"),
    ("cqa", CQA, "X. So the answer is d", "X.", "sea", "phrase"),
    ("cqa", CQA, "X.\n\n**Answer:** (b) river bank", "X.", "river bank", "phrase"),
    ("cqa", CQA, "X. The final answer is: sea", "X.", "sea", "phrase"),
    ("anli1", NLI, "So dry, so the answer is neutral.", "So dry,", "neutral", "phrase"),
    ("anli1", NLI, "R. The correct answer is **neutral**.", "R.", "neutral", "phrase"),
    ("svamp", SUM, "R. The answer is 3 + 4 = 7.", "R.", "(3 + 4)", "phrase"),
    ("svamp", SUM, "R. So the answer is $\\boxed{3 + 4}$.", "R.", "(3 + 4)", "phrase"),
    ("svamp", SUM, "R. The answer is 1,200.", "R.", "(1200)", "phrase"),
    # JSON
    ("esnli", NLI, '{"reasoning": "R.", "answer": "neutral"}', "R.", "neutral", "json"),
    ("cqa", CQA, '```json\n{"Explanation": "R.", "Label": "(d)"}\n```', "R.", "sea", "json"),
    ("svamp", SUM, '{"rationale": "R.", "answer": 7}', "R.", "(7)", "json"),
    # only a label
    ("esnli", NLI, "neutral", "neutral", "neutral", "last_label"),
    ("cqa", CQA, "Not a bank but the sea!", "Not a bank but the sea!", "sea", "last_label"),
    ("cqa", CQA, "A river bank.", "A river bank.", "river bank", "last_label"),
    ("svamp", SUM, "That makes 3 + 4.", "That makes 3 + 4.", "(3 + 4)", "last_label"),
    # none
    ("cqa", CQA, "", "", "", "empty"),
    ("cqa", CQA, " \n", "", "", "empty"),
    ("cqa", CQA, "\n\nQ: What? A: So the answer is (a) bank.", "", "", "empty"),
    ("cqa", CQA, "So the answer is either (a) bank or (d) sea.", "", "", "several"),
    ("cqa", CQA, "So the answer is (a) bank or (d) sea.", "", "", "several"),
    ("anli1", NLI, "R. So the answer is entailment or neutral.", "", "", "several"),
    ("svamp", SUM, "R. The answer is (8 / 4) and (6 / 4).", "", "", "several"),
    ("cqa", CQA, "So the answer is (f) moon.", "", "", "outside"),
    ("anli1", NLI, "R. So the answer is analogy.", "", "", "outside"),
    ("svamp", SUM, "R. The answer is (some - 8).", "", "", "outside"),
    ("svamp", SUM, "R. The answer is 7x = 14.", "", "", "outside"),
    ("esnli", NLI, "Who knows.", "", "", "no_answer"),
]


@pytest.mark.parametrize(("name", "record", "text", "rationale", "label", "outcome"), CASES)
def test_readings(name, record, text, rationale, label, outcome):
    read = answer_parser.read(PROMPTS[name], record, text)
    assert (read.rationale, read.label, read.outcome) == (rationale, label, outcome)


def test_every_outcome_has_a_case():
    outcomes = {case[-1] for case in CASES} | {"cut_off"}
    assert outcomes == {*answer_parser.READ, *answer_parser.UNREAD}


def test_a_cut_completion_is_not_guessed_at():
    text = "The premise does not contradict, so neutral or"
    assert answer_parser.read(PROMPTS["anli1"], NLI, text, "length").outcome == "cut_off"
    assert answer_parser.read(PROMPTS["anli1"], NLI, text, "stop").outcome == "last_label"


def test_a_run_on_with_a_second_answer_is_cut():
    text = "Wet. So the answer is (d) sea.\n\nQ: Who?\nA: He. So the answer is (a) bank."
    assert answer_parser.read(PROMPTS["cqa"], CQA, text) == answer_parser.Reading(
        "Wet.", "sea", "exact"
    )


def test_exact_reading_keeps_what_the_original_keeps():
    prompt = PROMPTS["cqa"]
    read = answer_parser.read(prompt, CQA, "X. So the answer is (c) mill.", strictness="exact")
    assert read == answer_parser.Reading("X.", "mill", "exact")
    read = answer_parser.read(prompt, CQA, "X. So the answer is one of these.", strictness="exact")
    assert read == answer_parser.Reading("X.", "", "no_answer")


RECORDS = {"cqa": CQA, "svamp": SUM, "asdiv": SUM, "esnli": NLI, "anli1": NLI, "demo": NLI}
# fmt: off
FRAGMENTS = st.sampled_from([
    "So the answer is", "The answer is ", "Answer: ", "(a)", "(3 + ", ")", "{", '{"answer": ', "}",
    "neutral", "yes", "no", "\n\nQ:", "Q:", "Premise:", "<think>", "</think>", "either ", " or ",
    "\\boxed{", "1,000", " = ", ".", "\n", "\ud800", "\x00", "é", "()" * 60,
])
# fmt: on
WRITING = st.lists(st.one_of(FRAGMENTS, st.text(max_size=8)), max_size=12).map("".join)


@settings(max_examples=250, deadline=None)
@given(
    name=st.sampled_from(sorted(PROMPTS)),
    text=WRITING,
    finish_reason=st.sampled_from(["stop", "length", None]),
    strictness=st.sampled_from(["tolerant", "exact"]),
)
def test_no_completion_crashes_the_ladder(name, text, finish_reason, strictness):
    prompt, record = PROMPTS[name], RECORDS[name]
    read = answer_parser.read(prompt, record, text, finish_reason, strictness)
    assert read.outcome in (*answer_parser.READ, *answer_parser.UNREAD)
    assert read.found == bool(read.label.strip())
    if read.found and strictness == "tolerant":
        if prompt.answer == "expression":
            assert accuracy.is_correct("equation", read.label, read.label)
        else:
            assert read.label in labels.allowed(prompt.answer, prompt.labels, record.input)


WORDS = st.lists(st.sampled_from(["it", "must", "be", "bank", "yes", "3", "(4)"]), min_size=1)


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(sorted(PROMPTS)),
    words=WORDS,
    choice=st.integers(0, 4),
    run_on=st.booleans(),
)
def test_what_is_written_in_the_form_reads_back_exactly(name, words, choice, run_on):
    prompt, record = PROMPTS[name], RECORDS[name]
    possible = labels.allowed(prompt.answer, prompt.labels, record.input) or ["(3 + (4 / 2))"]
    label = possible[choice % len(possible)]
    exemplar = prompts.Exemplar(record.input, " ".join(words) + ".", label)
    text = prompt.write_completion(exemplar) + (f"{prompt.stop[0]} more" if run_on else "")
    assert answer_parser.read(prompt, record, text) == answer_parser.Reading(
        exemplar.rationale, label, "exact"
    )


def test_deep_json_does_not_overflow():
    assert not answer_parser.read(PROMPTS["esnli"], NLI, '{"a":' * 5000).found


SPLITS = [("cqa", "train"), ("cqa", "test"), ("svamp", "train"), ("svamp", "test")]


@pytest.mark.parametrize(("dataset", "split"), SPLITS)
def test_exact_readings_of_the_release_equal_the_originals(shared, release_dir, dataset, split):
    known = json.loads((shared / "vectors" / "parsed.json").read_text())[f"{dataset}/{split}"]
    release = Release(release_dir)
    digest, n = hashlib.sha256(), 0
    for text in release.completions(dataset, split):
        rationale, label = PROMPTS[dataset].parse(text)
        digest.update(f"{rationale}\x1f{label}\x1e".encode())
        n += 1
    assert (n, digest.hexdigest()) == (known["count"], known["sha256"])


def test_tolerant_readings_of_the_release(release_dir):
    """What the ladder adds on PaLM's CQA test completions, all of it capitals and wordings."""
    release = Release(release_dir)
    outcomes, right = collections.Counter(), 0
    pairs = zip(release.records("cqa", "test"), release.completions("cqa", "test"), strict=True)
    for record, text in pairs:
        read = answer_parser.read(PROMPTS["cqa"], record, text, None)
        outcomes[read.outcome] += 1
        right += read.label == record.label
        if read.outcome == "exact":
            assert (read.rationale, read.label) == completions.PARSERS["cqa"](text)
    assert outcomes == {"exact": 1175, "several": 24, "spelling": 16, "phrase": 6}
    assert right == 959  # 943 with the original's parser
