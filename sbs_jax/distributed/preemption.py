"""Turns Ctrl-C and SIGTERM (preemption) into a stop request, granted between steps.

Of several processes usually one gets the signal, or each at another moment. jax's preemption
service then agrees on one update after which all of them stop. It waits for SIGTERM by itself, so a
Ctrl-C is handed to it as one.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class StopRequest:
    """Holds the number of the signal that asked to stop, or None."""

    signal_number: int | None = None

    def granted(self, done: int) -> bool:
        """Whether to stop after update `done`; every process asks after every update."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(done)
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """The shell's convention: 130 after Ctrl-C, 143 after SIGTERM (or another process's)."""
        return 128 + (self.signal_number or signal.SIGTERM)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Inside, the first Ctrl-C or SIGTERM sets the request; a second one acts at once."""
    request = StopRequest()
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        request.signal_number = number
        for each, handler in previous.items():
            signal.signal(each, handler)
        if several:
            os.kill(os.getpid(), signal.SIGTERM)

    several = jax.process_count() > 1
    for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handle)
    try:
        yield request
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
