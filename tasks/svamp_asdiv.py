"""SVAMP, its training problems augmented with the ASDiv problems that a teacher has annotated.

The paper's augmentation with unlabeled data (Hsieh et al. 2023): a teacher's outputs
make questions of another source usable. Sources, inputs and metric: see `svamp` and `asdiv`.
Splits: train is SVAMP's 720 and ASDiv's annotated training problems; validation (80) and test (200)
are SVAMP's alone, and a data fraction is one of SVAMP's problems.
"""

from sbs_jax.datasets.registry import add_dataset, get

_SVAMP = get("svamp")  # the package registers it and asdiv first: it imports in this order

add_dataset(
    "svamp_asdiv",
    records=_SVAMP.read,
    augment_with="asdiv",
    metric=_SVAMP.metric,
    carve_validation=_SVAMP.carve_validation,
    split_by=_SVAMP.split_by,
    description="SVAMP with annotated ASDiv problems added to its training problems",
)
