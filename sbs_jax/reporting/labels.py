"""Precision, recall and confusion per label, for answers from a closed set of labels."""

import collections
from collections.abc import Sequence

from sbs_jax.reporting.answers import Answers
from sbs_jax.reporting.tables import Table

_MOST_LABELS = 12  # more than these are open answers
_OTHER = "(another answer)"


def label_tables(name: str, answers: Sequence[Answers]) -> list[Table]:
    """Two tables over all test answers of the given runs together; none for open answers.

    Args:
        name: of the runs, for the captions.
    """
    pairs = [
        # The student may write its vocabulary's form of a label, such as one space for two.
        (row["gold"], row["gold"] if row["correct"] == 1 else row["label"])
        for run in answers
        for row in run.rows
    ]
    golds = sorted({gold for gold, _ in pairs})
    if not 2 <= len(golds) <= _MOST_LABELS or len(pairs) < 5 * len(golds):
        return []
    known = set(golds)
    counts = collections.Counter((gold, got if got in known else _OTHER) for gold, got in pairs)
    runs = f"{len(answers)} run{'s' if len(answers) > 1 else ''}"
    of = f"{name}, {runs} and {len(pairs)} answers together"
    return [_scores(of, golds, counts), _confusion(of, golds, counts)]


_Counts = collections.Counter[tuple[str, str]]


def _scores(of: str, golds: Sequence[str], counts: _Counts) -> Table:
    lines = []
    for label in golds:
        right = counts[label, label]
        gold = sum(n for (g, _), n in counts.items() if g == label)
        answered = sum(n for (_, a), n in counts.items() if a == label)
        precision = right / answered if answered else None
        recall = right / gold if gold else None
        both = 2 * right / (answered + gold) if answered + gold else None
        shares = ("-" if share is None else f"{share:.3f}" for share in (precision, recall, both))
        lines.append((label, *shares, str(gold), str(answered)))
    heads = ("label", "precision", "recall", "F1", "gold n", "answered n")
    return Table(f"Each label: {of}", heads, "<>>>>>", lines, detail=True)


def _confusion(of: str, golds: Sequence[str], counts: _Counts) -> Table:
    answers = [*golds, *([_OTHER] if any(answer == _OTHER for _, answer in counts) else [])]
    lines = [(gold, *(str(counts[gold, answer]) for answer in answers)) for gold in golds]
    heads = ("gold \\ answer", *answers)
    return Table(f"Confusion, counts: {of}", heads, "<" + ">" * len(answers), lines, detail=True)
