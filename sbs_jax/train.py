"""``python -m sbs_jax.train`` is ``sbs train``: the launcher a user of T5X expects."""

import sys

from sbs_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
