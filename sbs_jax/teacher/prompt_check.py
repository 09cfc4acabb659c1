"""Checks a prompt before any input: sizes, balance of labels, and whether exemplars parse back."""

import collections

from sbs_jax.datasets.records import Record
from sbs_jax.errors import UserError
from sbs_jax.teacher import answer_parser, labels
from sbs_jax.teacher.answer_parser import Strictness
from sbs_jax.teacher.progress import Prices, money
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.requests import CHARACTERS_PER_TOKEN


def describe(prompt: Prompt, prices: Prices, strictness: Strictness = "tolerant") -> str:
    """One line per exemplar and the sums; tokens are characters / 4. Raises as `check`."""
    lines = [f"prompt {prompt.name}: {len(prompt.exemplars)} exemplars, stop {list(prompt.stop)}"]
    rungs = check(prompt, strictness)
    for number, (exemplar, rung) in enumerate(zip(prompt.exemplars, rungs, strict=True), start=1):
        sent, answered = _tokens(exemplar.input), _tokens(prompt.write_completion(exemplar))
        lines.append(
            f"exemplar {number}: {sent} + {answered} tokens, label {exemplar.label!r}, reads back "
            f"as {rung}"
        )
    lines += [f"labels: {_balance(prompt)}"] if prompt.exemplars else []
    for mode in ("few_shot", "zero_shot"):
        lines.append(_request(prompt, mode, prices))
    return "\n".join(lines)


def check(prompt: Prompt, strictness: Strictness) -> list[str]:
    """Reads every exemplar as an answer will be read; returns the rungs.

    Raises UserError for one whose own rationale or label does not come back.
    """
    rungs = []
    for number, exemplar in enumerate(prompt.exemplars, start=1):
        record = Record("", exemplar.input, exemplar.label)
        completion = prompt.write_completion(exemplar)
        reading = answer_parser.read(prompt, record, completion, strictness=strictness)
        if (reading.rationale, reading.label) != (exemplar.rationale, exemplar.label):
            raise UserError(
                f"prompt {prompt.name}: exemplar {number} does not read back: the {strictness} "
                f"parser finds rationale {reading.rationale!r} and label {reading.label!r} "
                f"({reading.outcome}); answers in its form would be lost: change the exemplar, "
                "completion or stop"
            )
        rungs.append(reading.outcome)
    return rungs


def _balance(prompt: Prompt) -> str:
    """How often each label is shown; of choices, each letter."""
    shown = [labels.shown(prompt.answer, e.label, e.input) for e in prompt.exemplars]
    if prompt.answer == "choices":
        shown = [label[:3] for label in shown]
    counts = collections.Counter(dict.fromkeys(prompt.labels, 0)) + collections.Counter(shown)
    rare = [label for label in prompt.labels if not counts[label]]
    text = ", ".join(f"{label} {count}" for label, count in counts.most_common())
    return text + (f"; never shown: {', '.join(rare)}" if rare else "")


def _request(prompt: Prompt, mode: str, prices: Prices) -> str:
    """Size and cost of a request for an input like the first exemplar's."""
    if mode == "few_shot":
        first = prompt.exemplars[0].input if prompt.exemplars else ""
        question = Record("", first, "")
        size = _tokens(prompt.render(question)) if first else 0
    else:
        size = _tokens(prompt.instruction)
    cost = prices.cost(1000 * size, 1000 * prompt.max_tokens)
    most = "" if cost is None else f", at most {money(cost)} for 1,000 questions"
    return f"{mode}: about {size} tokens in, at most {prompt.max_tokens} out{most}"


def _tokens(text: str) -> int:
    return len(text) // CHARACTERS_PER_TOKEN + 1
