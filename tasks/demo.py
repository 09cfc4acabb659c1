"""The embedded dataset: invented nouns, kinds and verbs, generated where it is used.

Source: `sbs_jax.datasets.demo` with seed 0: questions, and the embedded teacher's completions read
by the parser that reads any other teacher's. Nothing is downloaded or stored.
Splits: train 800, validation 200, test 600; no question is in two of them.
A data fraction is the beginning of the training questions: they come in rounds of one question per
noun, so that every prefix covers the nouns evenly.

Label: yes or no. Metric: the same text. Vocabulary: its own whole words.
"""

from sbs_jax.datasets import demo
from sbs_jax.datasets.registry import add_dataset
from sbs_jax.datasets.splits import first_rows

add_dataset(
    "demo",
    records=demo.records,
    subsample=first_rows,
    vocabulary="demo",
    description="Invented things (generated): can a NOUN VERB, in two steps of reasoning",
)
