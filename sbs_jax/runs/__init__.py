"""A MODEL_DIR on disk: what is in it, and reading it."""
