"""Sets up Orbax: content of an entry, retention, silenced logs."""

import errno
import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sbs_jax.errors import os_reason

STATE = "state"  # the item of a checkpoint that holds its arrays


def open_manager(
    directory: str,
    *,
    read_only: bool,
    preservation_policy: Any,
    before_commit: Callable[[], None],
) -> Any:
    """An asynchronous `orbax.checkpoint.CheckpointManager`.

    Args:
        directory: created, and cleared of half-written checkpoints, unless `read_only`.
        preservation_policy: has Orbax's method `should_preserve`.
        before_commit: called on the first host once all files of a checkpoint are written and
            before it gets its final name.
    """
    import orbax.checkpoint as ocp  # a quarter of a second to import

    silence_orbax()
    options = ocp.CheckpointManagerOptions(
        read_only=read_only,
        create=not read_only,
        cleanup_tmp_directories=not read_only,
        preservation_policy=preservation_policy,
        # Scores are in our own file: Orbax would not start over a damaged metrics file.
        lightweight_initialize=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=before_commit),
    )
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    arrays = ocp.PyTreeCheckpointHandler()
    for kind in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
        registry.add(STATE, kind, arrays)
    make = functools.partial(
        ocp.CheckpointManager, directory, options=options, handler_registry=registry
    )
    try:
        return make()
    except FileNotFoundError:
        # Orbax removes a half-written checkpoint while it lists the folder. In a bucket the folder
        # ends with its last file, and Orbax takes that for an error; the next time it creates it.
        if read_only:
            raise
        return make()


def reason(error: BaseException) -> str:
    """The cause in a few words: the operating system's, if it is among the causes."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            open_files = cause.errno in (errno.EMFILE, errno.ENFILE)
            return os_reason(cause) if open_files else cause.strerror
        cause = cause.__cause__ or cause.__context__
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
        if os.strerror(number) in str(error):
            return os.strerror(number)
    text = str(error).strip().partition(" See full TensorStore")[0]
    return (text or type(error).__name__).splitlines()[0][:200]


@functools.cache
def silence_orbax() -> None:
    """Drops Orbax's log and the stragglers of a failed save or restore, once per process.

    Orbax logs hundreds of lines through absl, tracebacks of errors it then raises among them.
    When one array cannot be read or written, it drops what works on the others: each of those
    ends in an exception that cannot be caught, which asyncio logs or Python prints.
    """
    logging.getLogger("absl").addFilter(lambda record: not _is_orbax(record.pathname))
    logging.getLogger("asyncio").addFilter(
        lambda record: not (record.exc_info and _is_straggler(*record.exc_info[1:]))
    )
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        late = str(unraisable.exc_value) == "Event loop is closed"
        if not late and not _is_straggler(unraisable.exc_value, unraisable.exc_traceback):
            before(unraisable)

    sys.unraisablehook = hook


def _is_straggler(error: BaseException | None, trace: TracebackType | None) -> bool:
    # An abandoned future of TensorStore has no traceback.
    if "tensorstore_spec" in str(error):
        return True
    return any(_is_orbax(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(trace))


def _is_orbax(path: str) -> bool:
    return f"{os.sep}orbax{os.sep}" in path
