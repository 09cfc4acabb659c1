"""One module per verb of ``sbs``; sbs_jax/cli/main.py says what such a module holds."""
