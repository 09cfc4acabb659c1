"""``python -m sbs_jax`` is ``sbs``."""

import sys

from sbs_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
