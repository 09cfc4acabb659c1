"""Accuracy with n and interval; safe evaluation of equations."""
