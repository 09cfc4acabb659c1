"""What a run's lengths cut off, as results.json has it: for the report and the model card."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sbs_jax.datasets.splits import TRAIN


class Cut(NamedTuple):
    """Sequences of one split and task that were longer than the run allows, or did not end.

    Attributes:
        inputs: longer than TASK_FEATURE_LENGTHS.
        targets: longer than TASK_FEATURE_LENGTHS in training; gold labels longer than the decoding
            length in a split that is scored.
        answers: of the student, that reached the decoding length before they ended.
        examples: of the split.
    """

    split: str
    task: str
    inputs: int
    targets: int
    answers: int
    examples: int

    def __str__(self) -> str:
        target = "targets" if self.split == TRAIN else "gold labels too long to be decoded"
        parts = (
            (self.inputs, "inputs truncated"),
            (self.targets, f"{target}{' truncated' if self.split == TRAIN else ''}"),
            (self.answers, "answers truncated"),
        )
        named = ", ".join(f"{count:,} {words}" for count, words in parts if count)
        return f"{self.split} {self.task}: {named}, of {self.examples:,}"


def cuts(results: Mapping[str, Any]) -> Iterator[Cut]:
    """Every split and task with something cut off; none where results.json counts nothing.

    Args:
        results: content of results.json.
    """
    answers = {row["split"]: row.get("truncated_answers", 0) for row in results["results"]}
    for split, tasks in results.get("truncated", {}).items():
        for task, counts in tasks.items():
            cut = Cut(
                split,
                task,
                counts["inputs"],
                counts["targets"],
                0 if split == TRAIN else answers.get(split, 0),
                counts["examples"],
            )
            if cut.inputs or cut.targets or cut.answers:
                yield cut
