"""One module per verb of ``sbs``; sbs_jax/cli.py says what such a module holds."""
