"""Which checkpoints of a run are kept: the newest, and the best on validation."""

from collections.abc import Iterable, Sequence
from typing import Any

from sbs_jax.checkpoints.scores import Score


class Retention:
    """Orbax's preservation policy, with scores that may arrive after a checkpoint is saved.

    Attributes:
        scores: by step, whatever they were measured on.
        fingerprint: of the questions whose scores are compared; others rank nowhere.
        damaged: steps whose files are not what was written; never kept.
    """

    def __init__(self, max_to_keep: int, keep_best: int) -> None:
        self._max_to_keep, self._keep_best = max_to_keep, keep_best
        self.scores: dict[int, Score] = {}
        self.fingerprint: str | None = None
        self.damaged: set[int] = set()

    def ranked(self, steps: Iterable[int]) -> list[int]:
        """Steps scored on the questions of `fingerprint`, best first (ties: the later step)."""
        values = {
            step: self.scores[step].value
            for step in steps
            if step in self.scores and self.scores[step].fingerprint == self.fingerprint
        }
        return sorted(values, key=lambda step: (values[step], step), reverse=True)

    def kept(self, steps: Iterable[int]) -> set[int]:
        """The steps to keep, of those that exist."""
        intact = sorted(set(steps) - self.damaged)
        return {*intact[-self._max_to_keep :], *self.ranked(intact)[: self._keep_best]}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Orbax's callback: for each checkpoint, whether to keep it."""
        keep = self.kept(info.step for info in checkpoints)
        return [info.step in keep for info in checkpoints]
