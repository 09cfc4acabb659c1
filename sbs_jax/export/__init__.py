"""Exports a student: a Hugging Face folder, StableHLO programs."""
