"""The one exception for mistakes a user can fix, and the nearest known name for its message."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message is one line naming the file, line, field or flag and what to do.

    Commands print it as ``sbs: error: MESSAGE`` without a traceback and exit with status 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing when no known name is similar."""
    matches = difflib.get_close_matches(name, sorted(set(known) - {name}), n=1, cutoff=0.75)
    return f"; did you mean {matches[0]}?" if matches else ""
