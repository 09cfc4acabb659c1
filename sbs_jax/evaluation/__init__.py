"""Scoring every example exactly once, and results.json."""
