"""The datasets this package knows, one module each; importing it registers them all.

Facts only: what a dataset is, where it comes from and how it is split. The machinery is in
`sbs_jax.datasets` and `sbs_jax.datasets.methods`. Data are read when used, not here.
"""

from sbs_jax.tasks import anli1, asdiv, cqa, demo, esnli, svamp, svamp_asdiv

__all__ = ["anli1", "asdiv", "cqa", "demo", "esnli", "svamp", "svamp_asdiv"]
