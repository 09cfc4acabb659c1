"""A trained student: loading, asking, evaluating."""
