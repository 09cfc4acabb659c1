"""Keeps Orbax's internals off the terminal; what goes wrong is raised, and `store` words it."""

import functools
import logging
import os
import sys


@functools.cache
def silence_orbax() -> None:
    """Drops Orbax's log and the stragglers of a failed save, once per process.

    Orbax logs hundreds of lines through absl, tracebacks of errors it then raises among them.
    After a failed write it closes its event loop while other writes still report to it: each
    prints an unraisable RuntimeError.
    """
    logging.getLogger("absl").addFilter(_not_from_orbax)
    before = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            before(unraisable)

    sys.unraisablehook = hook


def _not_from_orbax(record: logging.LogRecord) -> bool:
    return f"{os.sep}orbax{os.sep}" not in record.pathname
