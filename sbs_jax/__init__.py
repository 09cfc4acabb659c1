"""Distilling Step-by-Step in JAX: small T5 students, a teacher's labels and rationales."""

__version__ = "0.1.0"
