"""Lets other trainers launch our experiments; no other package imports it."""
