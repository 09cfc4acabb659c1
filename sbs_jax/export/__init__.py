"""A student as other programs take it: a folder of Hugging Face, programs of StableHLO."""
