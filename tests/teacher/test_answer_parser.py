"""From a completion to rationale and label: every rung, every failure, and nothing that crashes."""

import collections
import dataclasses
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
ABOVE = Record("1", "Where?\nAnswer Choices:\n(a) bank\n(b) none of the above", "bank")
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
    # a real model's: the bracket alone is another expression
    ("svamp", SUM, "R. The answer is (28 - 22) / 2 = 3 caps.", "R.", "((28 - 22) / 2)", "phrase"),
    ("svamp", SUM, "R. So the answer is $\\boxed{3 + 4}$.", "R.", "(3 + 4)", "phrase"),
    ("svamp", SUM, "R. The answer is 1,200.", "R.", "(1200)", "phrase"),
    ("cqa", CQA, "(d) sea\n\nThe answer is (a) sea.", "", "sea", "phrase"),  # a real model's
    # JSON
    ("esnli", NLI, '{"reasoning": "R.", "answer": "neutral"}', "R.", "neutral", "json"),
    ("cqa", CQA, '```json\n{"Explanation": "R.", "Label": "(d)"}\n```', "R.", "sea", "json"),
    ("svamp", SUM, '{"rationale": "R.", "answer": 7}', "R.", "(7)", "json"),
    # only a label
    ("esnli", NLI, "neutral", "", "neutral", "last_label"),
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


# More forms of an answer: (dataset, record, text) -> (label, outcome).
FORMS = [
    # LaTeX and numbers
    *[
        ("svamp", SUM, f"R. The answer is {wording}.", label, outcome)
        for wording, label, outcome in [
            ("$9{,}500$", "(9500)", "phrase"),
            ("$9\\,500$", "(9500)", "phrase"),
            ("9\u202f500", "(9500)", "phrase"),
            ("9'500", "(9500)", "phrase"),
            ("1,234,567.5", "(1234567.5)", "phrase"),
            ("\\boxed{8,000}", "(8000)", "phrase"),
            ("\\( 14 + 9 \\)", "(14 + 9)", "phrase"),
            ("\\frac{14}{2}", "((14) / (2))", "phrase"),
            ("\\text{23 apples}", "(23)", "phrase"),
            ("14 plus 9", "(14 + 9)", "phrase"),
            ("12 x 3", "(12 * 3)", "phrase"),
            ("\\$18", "(18)", "phrase"),
            ("**23** passengers in all", "(23)", "phrase"),
            ("exactly 7", "(7)", "phrase"),
            ("1.200,50", "", "outside"),
            ("3,5", "", "outside"),
            ("7:30", "", "outside"),
            ("10^3", "", "outside"),
            ("5 million", "", "outside"),
            ("14 more than 9", "", "outside"),
            ("half of 20", "", "outside"),
            (".5", "(.5)", "phrase"),
            ("$.50", "(.50)", "phrase"),
            ("+5", "(+5)", "phrase"),
            ("007", "(7)", "phrase"),
            ("0,500", "", "outside"),
            ("(12 - 2) - 7", "((12 - 2) - 7)", "phrase"),  # the exact parser drops the 7
            ("(3 + 4 = 7)", "(3 + 4)", "spelling"),
            ("5(3)", "", "outside"),
            ("25% (1/4)", "(25)", "phrase"),
            ("7, since 3 + 4 = 7", "(7)", "phrase"),
            ("3 + 4 apples = 7 apples", "(3 + 4)", "phrase"),
            ("3 apples + 4 apples", "", "outside"),
            ("5 feet 6 inches", "", "outside"),
            ("5 hundredths", "", "outside"),
            ("20% of 50", "", "outside"),
            ("4 from 9", "", "outside"),
            ("1, 2, 3", "", "outside"),
            ("2 x", "", "outside"),
            ("50% more", "", "outside"),
            ("2024-05-01", "", "outside"),
            ("0x10", "", "outside"),
        ]
    ],
    ("svamp", SUM, "R.\n#### 42", "(42)", "phrase"),
    ("svamp", SUM, "We get $\\boxed{42}$.", "(42)", "phrase"),
    ("svamp", SUM, "First 3 + 4 = 7, then 7 * 2 = 14.", "", "several"),
    ("svamp", SUM, "R. 3 + 4 = 7", "(3 + 4)", "last_label"),
    # choices
    ("cqa", CQA, "X. The answer is option (d).", "sea", "phrase"),
    ("cqa", CQA, "X. The answer is clearly the sea.", "sea", "phrase"),
    ("cqa", CQA, "X. The answer is $\\boxed{\\text{(d)}}$.", "sea", "phrase"),
    ("cqa", CQA, "X. \\boxed{D}", "sea", "phrase"),
    ("cqa", CQA, "X. <answer>(d)</answer>", "sea", "phrase"),
    ("cqa", CQA, "X. So the answer is (a) (b).", "", "several"),
    ("cqa", CQA, "X. So the answer is (a) bank, (d) sea.", "", "several"),
    ("cqa", CQA, "X. So the answer is not (a).", "", "outside"),
    ("cqa", CQA, "X. So the answer is (a) bank (d) sea.", "", "several"),
    ("cqa", CQA, "X. The answer is (a) if dry, else (d).", "", "several"),
    ("cqa", CQA, "X. The answer is A or B.", "", "several"),
    ("cqa", CQA, "X. The answer is A, B.", "", "several"),
    ("cqa", CQA, "An incorrect answer is (a).", "", "no_answer"),
    ("cqa", CQA, "The wrong answer is (a). The right answer is (d).", "sea", "phrase"),
    # a choice in other brackets, quotes, or without any
    *[
        ("cqa", CQA, f"X.\nThe answer is {wording}", "sea", "phrase")
        for wording in (
            *("D (sea).", "option D, sea.", "likely (d) sea.", "most probably (d)", "“sea”."),
            *("[D]", "[[D]]", "{D}", "( d )", "(d.) sea", "（d）.", "\\(\\boxed{D}\\)", "D - sea"),
            *(":\n- (d) sea", ":\n1. (d) sea", "<b>D</b>", "option D because it is wet."),
        )
    ],
    *[
        ("cqa", CQA, text, "sea", "last_label")
        for text in (
            *("D", "**D**", "D)", "d.", "[D]", "[[D]]", "<<D>>", "Option D", "（D）"),
            *(
                "My choice is D.",
                "The correct option is D.",
                "It is wet.\n\n**D**",
                "<final_answer>D</final_answer>",
            ),
            *("## Answer\n\n**D**", "(d) sea: right\n(a) bank: wrong\n(c) mill: wrong"),
        )
    ],
    ("cqa", CQA, '{"answer": ["D"]}', "sea", "json"),
    ("cqa", CQA, '{"answer": ["A", "D"]}', "", "outside"),
    ("cqa", CQA, '{"Final answer": "D"}', "sea", "json"),
    ("cqa", CQA, '{"choice": "(d) sea"}', "sea", "json"),
    ("cqa", CQA, '{"rationale": "R.", "answer": "D", }', "sea", "phrase"),  # no JSON
    (
        "cqa",
        CQA,
        "So the answer is (d) sea.\nQ: Who?\nA: So the answer is (a) bank.",
        "sea",
        "exact",
    ),
    ("cqa", ABOVE, "None of the above.", "none of the above", "last_label"),
    ("cqa", ABOVE, "The answer is none of the above.", "none of the above", "phrase"),
    ("cqa", ABOVE, "The answer is none of them.", "", "several"),
    # stated, rejected, compared
    ("cqa", CQA, "(d) sea is right, while (b) river bank is a distractor.", "sea", "last_label"),
    ("cqa", CQA, "It is (d). The others, such as (c) mill, do not fit.", "sea", "last_label"),
    ("cqa", CQA, "I choose (d) sea rather than (c) mill.", "sea", "last_label"),
    ("cqa", CQA, "It cannot be (a), (b) or (c). Only (d) is left.", "sea", "last_label"),
    ("cqa", CQA, "(d) wins over (b).", "sea", "last_label"),
    ("cqa", CQA, "(a) is correct because (b) is dry.", "", "several"),
    ("cqa", CQA, "(c) mill", "Mill", "last_label"),
    ("cqa", CQA, "It is not (d) sea.", "", "no_answer"),
    ("cqa", CQA, "Could it be (d)? No.", "", "no_answer"),
    ("esnli", NLI, "Neutral, because we cannot call it a contradiction.", "neutral", "last_label"),
    ("esnli", NLI, "This is not entailment.", "", "no_answer"),
    ("esnli", NLI, "Entailment is ruled out.", "", "no_answer"),
    *[
        ("esnli", NLI, text, "", "no_answer")
        for text in (
            *(
                "No entailment",
                "There's no contradiction.",
                "It lacks entailment.",
                "All but neutral",
            ),
            *("I doubt entailment.", "Far from a contradiction.", "I am unable to see entailment."),
            "There is insufficient information for entailment.",
        )
    ],
    ("esnli", NLI, "Neutral rather than entailment.", "neutral", "last_label"),
]


@pytest.mark.parametrize(("name", "record", "text", "label", "outcome"), FORMS)
def test_forms(name, record, text, label, outcome):
    read = answer_parser.read(PROMPTS[name], record, text)
    assert (read.label, read.outcome) == (label, outcome)


def test_what_the_exact_parser_cuts_off_an_expression_counts(release_dir):
    """`(12 - 2) - 7` is ((12 - 2) - 7), which the original's parser reads as (12 - 2)."""
    release = Release(release_dir)
    pairs = zip(release.records("svamp", "test"), release.completions("svamp", "test"), strict=True)
    read = [(answer_parser.read(PROMPTS["svamp"], r, text, None), r.label) for r, text in pairs]
    assert sum(accuracy.is_correct("equation", one.label, gold) for one, gold in read) == 155
    assert [one.label for one, _ in read].count("((12 - 2) - 7)") == 1


# The first complete answer sentence ends the reading: (dataset, record, text, finish reason).
REPEATED = [
    ("svamp", SUM, "R. " + "The answer is (3 + 4). " * 3 + "The answer is (3 +", "length"),
    ("svamp", SUM, "R. The answer is (3 + 4). The answer is (4 + 3).", "stop"),
    ("svamp", SUM, "R. The answer is (3 + 4).\n\nA farmer has 3 cows and", "length"),
    ("cqa", CQA, "R. " + "So the answer is (d) sea. " * 6, "stop"),
    ("cqa", CQA, "R. So the answer is (d) sea. So the answer is (d) s", "length"),
    ("esnli", NLI, "R.\nAnswer: neutral\nAnswer: neutral\nAnswer: neu", "length"),
    ("anli1", NLI, "R. So the answer is neutral. So the answer is neutral.", "stop"),
    ("demo", NLI, "R. So the answer is yes. So the answer is yes.", "stop"),
]


@pytest.mark.parametrize(("name", "record", "text", "finish"), REPEATED)
def test_repeats_are_ignored(name, record, text, finish):
    read = answer_parser.read(PROMPTS[name], record, text, finish)
    assert (read.rationale, read.outcome) == ("R.", "exact")


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_repeats_must_agree(finish):
    text = "R. So the answer is (d) sea. So the answer is (a) bank. So"
    assert answer_parser.read(PROMPTS["cqa"], CQA, text, finish).outcome == "several"


CUT = [
    ("svamp", SUM, "R. The answer is (3 + 4"),
    ("svamp", SUM, "R. The answer is 12"),  # perhaps of 1200
    ("cqa", CQA, "R. So the answer is (d"),
    ("cqa", CQA, "R. It is the sea"),
    ("anli1", NLI, "R. So the answer is contra"),
    ("demo", NLI, "R. So the answer is no"),  # perhaps of "not sure"
]


@pytest.mark.parametrize(("name", "record", "text"), CUT)
def test_an_incomplete_sentence_is_cut_off(name, record, text):
    assert answer_parser.read(PROMPTS[name], record, text, "length").outcome == "cut_off"


CONTRADICTIONS = [
    ("R. So the answer is (a) sea.", "sea", True),
    ("R. So the answer is (d) sea (a).", "sea", True),
    ("(a) sea", "sea", True),
    ("R. The answer is (a): sea", "sea", True),
    ("R. So the answer is (d) sea.", "sea", False),
    ("R. So the answer is (d).", "sea", False),
    ("R. So the answer is sea.", "sea", False),
    ("(d) sea", "sea", False),
]


@pytest.mark.parametrize(("text", "label", "contradiction"), CONTRADICTIONS)
def test_the_text_counts_where_letter_and_text_contradict(text, label, contradiction):
    read = answer_parser.read(PROMPTS["cqa"], CQA, text)
    assert (read.label, read.contradiction) == (label, contradiction)


@pytest.mark.parametrize(("name", "record", "text", "rationale", "label", "outcome"), CASES)
def test_readings(name, record, text, rationale, label, outcome):
    read = answer_parser.read(PROMPTS[name], record, text)
    assert (read.rationale, read.label, read.outcome) == (rationale, label, outcome)


def test_every_outcome_has_a_case():
    outcomes = {case[-1] for case in CASES} | {"cut_off", "refused"}
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


@pytest.mark.parametrize("stop", ["\n", "\n\n", " \n"])
@pytest.mark.parametrize("before", ["", "\n", "\n\n"])
@pytest.mark.parametrize("behind", ["", "\n\n: So the answer is (a) bank."])
def test_a_stop_of_white_space_cuts_what_follows_it_alone(stop, before, behind):
    prompt = dataclasses.replace(PROMPTS["cqa"], stop=(stop,))
    text = f"{before}Wet. So the answer is (d) sea.{stop}{behind}"
    assert answer_parser.read(prompt, CQA, text) == answer_parser.Reading("Wet.", "sea", "exact")


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
    assert read.has_label == bool(read.label.strip())
    if read.has_label and strictness == "tolerant":
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
    assert not answer_parser.read(PROMPTS["esnli"], NLI, '{"a":' * 5000).has_label


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
    assert outcomes == {"exact": 1175, "several": 25, "spelling": 15, "phrase": 6}
    assert right == 959  # 943 with the original's parser


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"rationale": "It is wet.", "answer": "(b) sea"}', '"(b) sea"'),
        ("It is wet. So the answer is (b) sea.", "So the answer is (b) sea."),
    ],
)
def test_where_the_label_stands_for_its_confidence(text, sentence):
    record = Record("1", "Where?\nAnswer Choices:\n(a) bank\n(b) sea", "sea")
    reading = answer_parser.read(prompts.load("cqa"), record, text)
    assert (reading.label, reading.sentence, reading.wording) == ("sea", sentence, "sea")
