"""Token tables in memory, with the lengths of the released datasets."""

import numpy as np

# Mean, standard deviation and maximum of input, label and rationale lengths in tokens, EOS
# included, of the released training files under a vocabulary of 8,000 pieces.
_DATASETS = {
    "cqa": ((52, 7.9, 118), (2.7, 0.9, 11), (30, 5.4, 74)),
    "svamp": ((45, 9.6, 82), (11, 3.0, 20), (37, 14.5, 108)),
    "esnli": ((33.6, 8.1, 60), (2, 0.0, 2), (13.7, 6.0, 39)),
    "anli1": ((119, 19.9, 204), (2, 0.0, 2), (30, 14.0, 112)),
}


class MemoryTable:
    """`batch_plan.Table` over lengths; the tokens of a record are its number and its view's."""

    def __init__(self, input_lengths, target_lengths, view=1):
        self.input_lengths = np.asarray(input_lengths, np.int32)
        self.target_lengths = np.asarray(target_lengths, np.int32)
        self.n = len(self.input_lengths)
        self.ids = range(self.n)
        self._view = view

    def inputs(self, row):
        return np.full(self.input_lengths[row], 2 + self._view, np.int32)

    def targets(self, row):
        return np.full(self.target_lengths[row], 4 + self._view, np.int32)


def lengths_like(name: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Input and target lengths, int64 [2, n] (label view, rationale view), like a dataset's."""
    rng = np.random.default_rng(0)

    def draw(mean, spread, most):
        # Right-skewed, as texts are.
        shape = (mean / spread) ** 2 if spread else 0.0
        drawn = rng.gamma(shape, mean / shape, n) if spread else np.full(n, mean)
        return drawn.round().clip(2, most).astype(np.int64)

    inputs, labels, rationales = (draw(*of) for of in _DATASETS[name])
    return np.stack([inputs, inputs + 1]), np.stack([labels, rationales])


def tables_of(inputs: np.ndarray, targets: np.ndarray) -> list[tuple[int, MemoryTable]]:
    """(task id, table) per view."""
    return [
        (view + 1, MemoryTable(inputs[view], targets[view], view)) for view in range(len(inputs))
    ]
