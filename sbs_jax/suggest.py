"""The nearest known name, for error messages."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing when no known name is similar."""
    matches = difflib.get_close_matches(name, sorted(set(known) - {name}), n=1, cutoff=0.75)
    return f"; did you mean {matches[0]}?" if matches else ""
