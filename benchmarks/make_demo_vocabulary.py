"""Writes sbs_jax/assets/demo.model, the vocabulary of the embedded dataset.

    python benchmarks/make_demo_vocabulary.py

Needed only after a change of the words in sbs_jax/datasets/demo.py; takes a second.
"""

from pathlib import Path

from sbs_jax.datasets import demo

ASSET = Path(demo.__file__).parent / "assets" / "demo.model"

if __name__ == "__main__":
    size = ASSET.write_bytes(demo.vocabulary_model())
    print(f"{ASSET}: {size} bytes")
