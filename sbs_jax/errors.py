"""The one exception for mistakes a user can fix, and the words of error messages."""

import difflib
import errno
import os
import resource
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: the message is one line naming the file, line, field or flag and what to do.

    Commands print it as ``sbs: error: MESSAGE`` without a traceback and exit with status 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean X?``, or nothing when no known name is similar."""
    matches = difflib.get_close_matches(name, sorted(set(known) - {name}), n=1, cutoff=0.75)
    return f"; did you mean {matches[0]}?" if matches else ""


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
