"""Distilling Step-by-Step in JAX: small T5 students, a teacher's labels and rationales."""

from sbs_jax import moved

__version__ = "0.1.0"

moved.install()
