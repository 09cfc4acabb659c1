"""A Ctrl-C that comes where Python cannot raise it interrupts all the same.

Python raises KeyboardInterrupt in whatever code runs. In a destructor or a callback of the garbage
collector (jax has one) it prints the exception and goes on, so the program does what it was told to
stop: 32 of 300 Ctrl-C at random times before the first update of `sbs train` were lost so.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

_AGAIN_SECONDS = 0.05


@contextlib.contextmanager
def raised_again() -> Iterator[None]:
    """Inside, a KeyboardInterrupt that Python could not raise is sent once more, a moment later."""
    default = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            default(unraisable)
            return
        # Sent at once it would be raised, and lost, in this function.
        main = threading.main_thread().ident
        again = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (main, signal.SIGINT))
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = default


def is_cause(error: BaseException | None) -> bool:
    """Whether a KeyboardInterrupt led to `error`: numpy raises SystemError, jax TypeError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None
