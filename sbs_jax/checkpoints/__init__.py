"""Saving and restoring: Orbax, and the formats of Hugging Face and T5X."""
