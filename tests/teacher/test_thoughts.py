"""What is thought aloud is no answer, whatever the marks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbs_jax.teacher import thoughts

PAIRS = [
    ("<think>", "</think>"),
    ("<THINKING>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<scratchpad>", "</scratchpad>"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<antThinking>", "</antThinking>"),
    ("<analysis>", "</analysis>"),
    ("<inner_thoughts>", "</inner_thoughts>"),
    ('<think type="long">', "</think>"),
    ("<|think|>", "<|/think|>"),
    ("&lt;think&gt;", "&lt;/think&gt;"),
    ("\\<think\\>", "\\</think\\>"),
    ("[REASONING]", "[/REASONING]"),
    ("<｜begin▁of▁thinking｜>", "<｜end▁of▁thinking｜>"),
    (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>",
    ),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<unused94>", "<unused95>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
]


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_every_mark_with_and_without_its_opening(opening, closing):
    for text in (f"{opening}hm (a){closing}\n\nR. (b)", f"hm (a)\n{closing}R. (b)"):
        aloud, answer = thoughts.split(text)
        assert answer == "R. (b)" and aloud.startswith(("hm (a)", "<|message|>hm (a)"))
    assert thoughts.split(f"{opening}hm (a)")[1] == ""  # it never closed
    assert thoughts.split(f"hm {closing} ha {closing} R.")[1] == "R."


OTHERS = [
    ("analysisWe weigh it.assistantfinalR. (b)", "R. (b)"),
    ("assistantcommentaryWe weigh it.assistantfinalR. (b)", "R. (b)"),
    ("<details><summary>Thought for 2 s</summary>(a)?</details>\nR. (b)", "R. (b)"),
    ("<details>The lake</details>\nR. (b)", "<details>The lake</details>\nR. (b)"),
    ("<|start_header_id|>assistant<|end_header_id|>\n\nR. (b)", "R. (b)"),
    ("<|assistant|>R. (b)</s>", "R. (b)"),
    ("\u200bR. (b)\ufeff", "R. (b)"),
    ("3 < thought and 4 > 2", "3 < thought and 4 > 2"),
    ("Analysis of the question: (b)", "Analysis of the question: (b)"),  # an ordinary word
    ("Here is my thought process:\nhm\nHere is my response:\nR. (b)", "R. (b)"),
    ("R. (b)\n<think>was that right?</think>", "R. (b)"),
    ("<think>hm</think>", ""),
    ("hm</think>", ""),
    ("R. (b)<|im_end|>\n<|im_start|>user", "R. (b)"),
    ("R. (b)<end_of_turn>", "R. (b)"),
    ("<|channel|>final<|message|>R. (b)<|return|>", "R. (b)"),
    ("3 < 4 and [1]", "3 < 4 and [1]"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "answer"), OTHERS)
def test_answers(text, answer):
    assert thoughts.split(text)[1] == answer


@given(st.text(alphabet="ab c.\n", max_size=40))
def test_a_text_without_marks_stays(text):
    assert thoughts.split(text) == ("", text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "<|inner_prefix|>hm (a)<|inner_suffix|>(d) sea",
        "hm (a)<|inner_suffix|>(d) sea",
        "<|think_start|>hm (a)<|think_end|>(d) sea",
        "<|reasoning_start|>hm (a)<|reasoning_end|>(d) sea",
        "hm (a)<|think_end|>\n(d) sea",
        "<thinking_process>hm (a)</thinking_process>(d) sea",
        "<think_never_used_51bce0c7>hm (a)</think_never_used_51bce0c7>(d) sea",
        "<ctrl94>thought\nhm (a)<ctrl95>(d) sea",
        "Thinking...\nhm (a)\n...done thinking.\n\n(d) sea",
    ],
)
def test_marks_of_further_models(text):
    aloud, answer = thoughts.split(text)
    assert "hm (a)" in aloud and answer == "(d) sea"


@pytest.mark.parametrize(
    "text", ["Thinking... it is (d) sea", "We were done thinking. (d) sea", "<thinker>(d) sea"]
)
def test_words_that_open_or_close_nothing_stay(text):
    assert thoughts.split(text) == ("", text)
