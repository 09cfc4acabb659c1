"""The command line: ``sbs VERB``, one module per verb."""

from sbs_jax.cli.main import main

__all__ = ["main"]
