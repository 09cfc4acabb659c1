"""Writes sbs_jax/assets/demo.model, the vocabulary of the embedded dataset.

    python benchmarks/make_demo_vocabulary.py

Needed only after a change of the words in sbs_jax/demo_data.py; takes a second.
"""

from pathlib import Path

from sbs_jax import demo_data

ASSET = Path(demo_data.__file__).parent / "assets" / "demo.model"

if __name__ == "__main__":
    size = ASSET.write_bytes(demo_data.vocabulary_model())
    print(f"{ASSET}: {size} bytes")
