"""A trained student loaded and asked."""
