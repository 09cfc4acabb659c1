"""Registers the built-in datasets, one module each.

Facts only: what a dataset is, where it comes from and how it is split. The machinery is in
`sbs_jax.datasets` and `sbs_jax.datasets.methods`. Data are read when used, not here.

A program that has imported SeqIO gets the tasks in SeqIO's registry too. No other program loads
TensorFlow for them; it imports `sbs_jax.integrations.seqio_tasks` when it wants them there.
"""

import sys

from sbs_jax.tasks import anli1, asdiv, cqa, demo, esnli, svamp, svamp_asdiv

if sys.modules.get("seqio"):
    from sbs_jax.integrations import seqio_tasks  # noqa: F401

__all__ = ["anli1", "asdiv", "cqa", "demo", "esnli", "svamp", "svamp_asdiv"]
