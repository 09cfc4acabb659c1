"""One run of a grid: what is trained, where it lies, and what makes it the same run again."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sbs_jax.configs import TrainConfig
from sbs_jax.metrics.accuracy import Accuracy
from sbs_jax.reporting import rows

# A run may change these between its starts; the rows of a study are compared with each other.
_OF_THE_SCORE = ("eval_num_examples", "max_decode_length")

# (arm, size, alpha, dataset, fraction, seed); size, alpha and dataset are None unless they vary.
Key = tuple[str, str | None, float | None, str | None, float, int]
# (arm, size, alpha, dataset): the runs of a line in a picture, all with the same settings.
Group = tuple[str, str | None, float | None, str | None]


@dataclasses.dataclass(frozen=True)
class Run:
    """A cell of the grid.

    Attributes:
        arm: what is compared; `reporting.rows.ARM_NAMES` holds the usual ones.
        config: of the training; its data_fraction and random_seed say where in the grid it is.
        majority: what an untrained guesser scores on the test questions, instead of the
            most frequent training label.
        config_gin: gin text that gives the config again, for the run's MODEL_DIR.
        size, alpha, dataset: the places on the grid's other axes; None where there is no such axis.
        data: fingerprints of the records by split, e.g. of train and test; empty where unknown.
    """

    arm: str
    config: TrainConfig
    majority: Accuracy | None = None
    config_gin: str = ""
    size: str | None = None
    alpha: float | None = None
    dataset: str | None = None
    data: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> Key:
        """The place in the grid."""
        place = self.config.data_fraction, self.config.random_seed
        return *self.group, *place

    @property
    def group(self) -> Group:
        """The runs that differ from it in data fraction and seed alone."""
        return self.arm, self.size, self.alpha, self.dataset

    @property
    def settings(self) -> str:
        """Changes with anything that would make it another run, or its score another one."""
        text = json.dumps(fixed(dataclasses.asdict(self.config)), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """For messages: where the run differs from the others."""
        axes = (self.dataset, self.size, None if self.alpha is None else f"alpha {self.alpha:g}")
        place = f"fraction {self.config.data_fraction:g}, seed {self.config.random_seed}"
        return ", ".join([self.arm, *(axis for axis in axes if axis), place])


def group_name(group: Group) -> str:
    """How a group is called in messages and in the report."""
    arm, size, alpha, dataset = group
    name = rows.arm_name(rows.full_arm({"arm": arm, "size": size, "alpha": alpha}))
    return f"{dataset}, {name}" if dataset else name


def fixed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that may not differ between the starts of one run, or decide its score."""
    from sbs_jax.runs import run_dir  # imports jax, which a dry run does without

    free = {*run_dir.FREE_FIELDS} - {*_OF_THE_SCORE}
    return {name: value for name, value in fields.items() if name not in free}


def cell_dir(
    folder: Path,
    arm: str,
    fraction: float,
    seed: int,
    size: str | None = None,
    alpha: float | None = None,
    dataset: str | None = None,
) -> str:
    """The MODEL_DIR of a cell: FOLDER/runs/[DATASET-]ARM[-SIZE][-alphaA]-PERCENTpct-seedSEED."""
    parts = [dataset, arm, size, None if alpha is None else f"alpha{alpha:g}"]
    name = "-".join(part for part in parts if part)
    return str(folder / "runs" / f"{name}-{100 * fraction:g}pct-seed{seed}")
