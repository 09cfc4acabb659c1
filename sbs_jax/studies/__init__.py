"""Grids of runs, and the demonstration."""
