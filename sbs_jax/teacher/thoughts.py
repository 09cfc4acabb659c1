"""Separates what a model thinks aloud from what it answers.

Reasoning models write their thoughts into the text itself, between marks that differ from model to
model. The opening mark is optional: chat templates often put it into the prompt, so that only the
closing one is in the answer (https://github.com/vllm-project/vllm/issues/13125).
"""

import re

_NAME = (
    r"(?:\w+[:_])?(?:ant)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratch_?pad"
    r"|inner_monologue|analysis)"
)
# What follows the name in some tags: <think_fast>, but <|think_end|> closes.
_MORE = r"(?:_(?!end[|>\\&])\w+)?"
_LEFT, _RIGHT = r"(?:\\?<|&lt;)\|?", r"\|?\\?(?:>|&gt;)"
# (Opening, closing), as regular expressions that ignore capitals; either one may be alone.
MARKS: tuple[tuple[str, str], ...] = (
    (
        rf"{_LEFT}{_NAME}{_MORE}(?:\s[^<>]*)?{_RIGHT}",
        rf"{_LEFT}(?:/{_NAME}{_MORE}|{_NAME}_end){_RIGHT}",
    ),
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),  # Apertus
    (r"<ctrl94>(?:thought)?", "<ctrl95>"),
    (
        r"<[|｜](?:begin|start)[_▁]of[_▁](?:thought|thinking)[|｜]>",
        r"<[|｜]end[_▁]of[_▁](?:thought|thinking)[|｜]>",
    ),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"\[(?:THINK|REASON)(?:ING)?\]", r"\[/(?:THINK|REASON)(?:ING)?\]"),
    ("◁think▷", "◁/think▷"),
    ("<unused94>", "<unused95>"),
    (r"<\|channel>thought", r"<channel\|>"),
    # Harmony, the format of gpt-oss.
    (
        r"<\|channel\|>(?:analysis|commentary)",
        r"<\|channel\|>final(?:[^<]|<\|constrain\|>)*<\|message\|>",
    ),
)
# Ordinary words, which count only as a pair from the start of the text: harmony without its special
# tokens, Granite, and web pages.
WORDS: tuple[tuple[str, str], ...] = (
    (r"^(?:assistant)?(?:analysis|commentary)", r"assistant\s*final(?=\W|[A-Z0-9])"),
    (r"^<details[^>]*>\s*(?:<summary>)?[^<]*(?:thought|think|reason)", r"</details>"),
    (r"^Thinking\.\.\.", r"\.\.\.\s*done thinking\."),  # what `ollama run` prints
    (r"^Here(?:'s| is) my thought process:", r"Here(?:'s| is) my response:"),
)

_OPENING = re.compile("|".join(opening for opening, _ in MARKS), re.IGNORECASE)
_CLOSING = re.compile("|".join(closing for _, closing in MARKS), re.IGNORECASE)
_PAIR = re.compile(
    "|".join(rf"{opening}.*?(?:{closing})" for opening, closing in (*MARKS, *WORDS)),
    re.IGNORECASE | re.DOTALL,
)
_FRAME = re.compile(
    r"<\|(?:START_RESPONSE|END_RESPONSE|begin_of_solution|end_of_solution|assistant)\|>"
    r"|<\|(?:im_start|start_header_id|start)\|>\s*assistant(?:<\|end_header_id\|>)?",
    re.IGNORECASE,
)
_END = re.compile(
    r"<\|(?:return|im_end|eot_id|eom_id|endoftext|end_of_text|end|END_OF_TURN_TOKEN)\|>"
    r"|<end_of_turn>|<eos>|</s>|<｜end▁of▁sentence｜>"
)
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
_STARTS = ("analysis", "thinking", "here", "assistan", "commenta")


def _may_hold_marks(text: str) -> bool:
    # Plain searches: a journal of half a million answers is looked through at every start.
    marks = "<" in text or "[" in text or "◁" in text or "&lt;" in text
    return marks or text[:8].casefold().startswith(_STARTS)


def split(text: str) -> tuple[str, str]:
    """A completion -> (thoughts, answer), both without marks and outer white space.

    Everything up to the last closing mark is thought. Where nothing follows that mark, the answer
    is the text outside the marks. Thoughts that never close have no answer behind them. A special
    token that ends the model's turn ends the answer.
    """
    text = text.strip().strip(_INVISIBLE).strip()
    if not _may_hold_marks(text):
        return "", text
    end = max(
        (match.end() for mark in (_CLOSING, _PAIR) for match in mark.finditer(text)), default=0
    )
    thoughts, answer = text[:end], text[end:]
    if end and not _cleaned(answer):
        answer = _PAIR.sub("", text)
        closing = _CLOSING.search(answer)
        answer = answer[closing.end() :] if closing else answer
        thoughts = " ".join(match[0] for match in _PAIR.finditer(text)) or text
    opening = _OPENING.search(answer)
    if opening:
        thoughts, answer = thoughts + answer[opening.start() :], answer[: opening.start()]
    return _without_marks(thoughts), _cleaned(answer)


def _without_marks(thoughts: str) -> str:
    return _OPENING.sub("", _CLOSING.sub("", thoughts)).strip()


def _cleaned(answer: str) -> str:
    return _END.split(_FRAME.sub("", answer).strip())[0].strip()
