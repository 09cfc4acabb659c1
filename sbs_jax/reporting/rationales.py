"""Compares students' rationales with the teacher's, and with their own labels.

ROUGE-L (Lin 2004) is rouge-score's F1 without stemming, a mean over questions; BLEU is sacrebleu's
corpus score. Neither says whether a rationale is right. rouge-score 0.1.2 reads ASCII letters and
digits only (a text in Cyrillic scores 0 against itself) and sacrebleu 2.6's default takes a Chinese
sentence for one word, so both get words of any script; for English nothing changes.
"""

import importlib.util
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sbs_jax.metrics import equations
from sbs_jax.reporting.answers import Answers
from sbs_jax.reporting.tables import Table
from sbs_jax.utils import words

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def rationale_table(of_runs: Sequence[tuple[str, Answers]]) -> Table:
    """A line per run that wrote rationales; none without such runs."""
    lines = [
        (name, *_fields(rows))
        for name, answers in of_runs
        if (rows := [row for row in answers.rows if row.get("rationale")])
    ]
    heads = ("run", "n", "ROUGE-L", "BLEU", "same text", "names its label", "teacher's does")
    caption = (
        "Rationales: likeness to the teacher's on the same questions, and how often one names the "
        "label it comes with (of an equation: its value)"
    )
    return Table(caption, heads, "<>>>>>>", lines, detail=True)


def _fields(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    pairs = [(r["teacher_rationale"], r["rationale"]) for r in rows if r.get("teacher_rationale")]
    same = [teacher == student for teacher, student in pairs]
    own = [names_label(row["rationale"], row["label"]) for row in rows]
    teachers = [
        names_label(row["teacher_rationale"], row["teacher_label"])
        for row in rows
        if row.get("teacher_rationale") and row.get("teacher_label")
    ]
    return (str(len(pairs)), *_likeness(pairs), *map(_share, (same, own, teachers)))


def _share(values: Sequence[bool]) -> str:
    return f"{statistics.fmean(values):.3f}" if values else "-"


def _likeness(pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """(ROUGE-L, BLEU) of (teacher's, student's) rationales; "-" where a library is missing."""
    libraries = ("rouge_score", "sacrebleu")
    if not pairs or not all(importlib.util.find_spec(name) for name in libraries):
        return "-", "-"
    import sacrebleu
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=_Words())
    rouge = statistics.fmean(scorer.score(*pair)["rougeL"].fmeasure for pair in pairs)
    teachers, students = map(list, zip(*pairs, strict=True))
    tokenize = "zh" if any(map(words.has_unspaced, teachers)) else "13a"
    bleu = sacrebleu.corpus_bleu(students, [teachers], force=True, tokenize=tokenize)
    return f"{rouge:.3f}", f"{bleu.score:.1f}"


class _Words:
    """The words of a text as rouge-score asks for them."""

    tokenize = staticmethod(words.words)


def names_label(rationale: str, label: str) -> bool:
    """Whether a rationale holds the words of a label, or the value of an equation.

    >>> names_label("A loaf is kept in a bread box.", "bread box")
    True
    >>> names_label("He has 4 times 5, which is 20 coins.", "(4.0 * 5.0)")
    True
    """
    wording = re.escape(label.strip())
    if wording and re.search(words.whole(wording), rationale, re.IGNORECASE):
        return True
    value = equations.evaluate(label) if any(map(str.isdigit, label)) else None
    if not isinstance(value, int | float):
        return False
    return any(abs(float(n) - value) < 1e-6 for n in _NUMBER.findall(rationale.replace(",", "")))
