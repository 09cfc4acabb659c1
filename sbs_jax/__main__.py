"""``python -m sbs_jax`` is ``sbs``."""

import sys

from sbs_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
