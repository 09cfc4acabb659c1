"""The one exception for mistakes a user can fix, and the words of error messages."""

import difflib
import errno
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterable

_MOST_CHARACTERS = 100  # of a foreign error's own words


class UserError(Exception):
    """Bad input: the message is one line naming the file, line, field or flag and what to do.

    Commands print it as ``sbs: error: MESSAGE`` without a traceback and exit with status 2. What a
    terminal would not print as it is, such as a line feed in a name that a file gives, is escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


# What a function of the user's may raise: sys.exit() too, which would end a run without a word.
OF_USERS_CODE = (Exception, SystemExit)


def of_users_code(error: BaseException) -> str:
    """What a user's function raised and where, e.g. ``KeyError ('label') at mine_tasks.py:12``."""
    ours = (sys.prefix, sys.base_prefix, os.path.dirname(__file__))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*ours, "<"))
    ]
    words = " ".join(str(error).split())[:_MOST_CHARACTERS]
    place = f" at {os.path.relpath(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__} ({words}){place}"


def nearest(name: str, known: Iterable[str], part: Callable[[str], str] = str) -> str:
    """``; did you mean X?``, or nothing when no known name is similar.

    Args:
        part: of a name, which must be similar; of names that share it the nearest is meant.
    """
    others = sorted(set(known) - {name})
    matches = difflib.get_close_matches(part(name), sorted({*map(part, others)}), n=1, cutoff=0.75)
    if not matches:
        return ""
    same = [other for other in others if part(other) == matches[0]]
    return f"; did you mean {difflib.get_close_matches(name, same, n=1, cutoff=0.0)[0]}?"


def os_reason(error: OSError) -> str:
    """What the operating system refused and what to do, e.g. ``Permission denied``."""
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{reason}: {_open_files()}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{reason}: free some space or choose another folder"
    return reason


def os_line(error: OSError) -> str:
    """`os_reason` after the file it is about, for an error that nothing else explains."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if name is not None]
    return f"{' -> '.join(map(str, names)) or 'input or output'}: {os_reason(error)}"


def _open_files() -> str:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        count = len(os.listdir("/proc/self/fd"))
    except OSError:  # no /proc on this system, or no file left to read it with
        count = limit
    if 2 * count > limit:
        return f"the limit is {limit} files per process; raise it with `ulimit -n`"
    return (
        f"only {count} of {limit} files are open, so the folder itself refuses: a mounted bucket "
        "(gcsfuse) that cannot rename folders does; use one with a hierarchical namespace"
    )
