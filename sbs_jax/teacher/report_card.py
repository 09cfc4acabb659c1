"""Measures the teacher against gold labels: accuracy, calibration, labels."""

import collections
from collections.abc import Iterable
from typing import Any

from sbs_jax.metrics import accuracy
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.teacher import labels as answers
from sbs_jax.teacher.prompts import Prompt
from sbs_jax.teacher.voting import Answer

_NOTHING = Accuracy(0, 0)
_NO_LABEL = "(none)"


class ReportCard:
    """Counts over answers; add them in any order, read the card at the end.

    An unreadable answer is wrong; a record without an answer, or without a gold label, does not
    count.
    """

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt
        self.overall = _NOTHING
        self.readable = _NOTHING
        self._by_agreement: dict[tuple[int, int], Accuracy] = {}
        self._by_label: dict[str, Accuracy] = {}
        self._label_counts: collections.Counter[str] = collections.Counter()
        self._words = 0
        self._by_confidence: dict[int, tuple[Accuracy, float]] = {}

    def add(self, answer: Answer) -> None:
        """Counts one answer."""
        if not answer.samples or not answer.record.label.strip():
            return
        right = accuracy.is_correct(self._prompt.metric, answer.label, answer.record.label)
        one = Accuracy(int(right), 1)
        self.overall += one
        level = (answer.votes, answer.samples)
        self._by_agreement[level] = self._by_agreement.get(level, _NOTHING) + one
        if answer.confidence is not None:
            tenth = min(9, int(answer.confidence * 10))
            counts, total = self._by_confidence.get(tenth, (_NOTHING, 0.0))
            self._by_confidence[tenth] = (counts + one, total + answer.confidence)
        if answer.label:
            self.readable += one
            self._words += len(answer.rationale.split())
        for group in self._group(answer, answer.record.label):
            self._by_label[group] = self._by_label.get(group, _NOTHING) + one
        for group in self._group(answer, answer.label):
            self._label_counts[group] += 1

    def _group(self, answer: Answer, label: str) -> Iterable[str]:
        """The row of the label table: the label, or the letter of the choice."""
        if self._prompt.answer == "labels":
            return [label or _NO_LABEL]
        if self._prompt.answer == "choices":
            shown = answers.shown("choices", label, answer.record.input)
            return [shown[:3] if shown else _NO_LABEL]
        return []

    def calibration(self) -> list[dict[str, Any]]:
        """Accuracy at every level of agreement, the highest first."""
        ordered = sorted(
            self._by_agreement.items(), key=lambda item: (-item[0][0] / item[0][1], -item[0][1])
        )
        return [
            {"votes": votes, "samples": samples, "agreement": votes / samples, **counts.to_json()}
            for (votes, samples), counts in ordered
        ]

    def confidence(self) -> list[dict[str, Any]]:
        """Accuracy in every tenth of the label's probability, the surest first."""
        return [
            {"from": tenth / 10, "mean_confidence": round(total / counts.n, 4), **counts.to_json()}
            for tenth, (counts, total) in sorted(self._by_confidence.items(), reverse=True)
        ]

    def labels(self) -> dict[str, dict[str, Any]]:
        """Per gold label: accuracy, and how often the teacher says it."""
        return {
            label: {
                "said": self._label_counts[label],
                **self._by_label.get(label, _NOTHING).to_json(),
            }
            for label in sorted(self._by_label.keys() | self._label_counts.keys())
        }

    def to_json(self) -> dict[str, Any]:
        readable = self.readable.n
        return {
            "accuracy": self.overall.to_json(),
            "accuracy_where_readable": self.readable.to_json(),
            "mean_rationale_words": round(self._words / readable, 1) if readable else None,
            "calibration": self.calibration(),
            **({"confidence": self.confidence()} if self._by_confidence else {}),
            "labels": self.labels(),
            "prompt": {
                name: getattr(self._prompt, name) for name in ("answer", "labels", "metric")
            },
        }

    def __str__(self) -> str:
        if not self.overall.n:
            return "not scored: no record has an answer and a gold label"
        lines = [
            f"teacher's accuracy    {self.overall}",
            f"  where readable      {self.readable}",
        ]
        several = any(samples > 1 for _, samples in self._by_agreement)
        for row in self.calibration() if several else ():
            counts = Accuracy(row["correct"], row["n"])
            lines.append(f"  {row['votes']} of {row['samples']} agree".ljust(22) + str(counts))
        for row in self.confidence():
            sure = f"  sure {row['from']:.1f} and more".ljust(22)
            lines.append(sure + str(Accuracy(row["correct"], row["n"])))
        for label, row in self.labels().items():
            counts = Accuracy(row["correct"], row["n"])
            if counts.n:
                lines.append(f"  gold {label}".ljust(22) + f"{counts}, said {row['said']} times")
            elif label == _NO_LABEL:
                lines.append("  no possible label".ljust(22) + f"{row['said']} answers")
            else:
                lines.append(f"  never gold {label}".ljust(22) + f"said {row['said']} times")
        return "\n".join(lines)
