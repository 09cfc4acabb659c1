"""Ctrl-C and SIGTERM (preemption) as a wish to stop that the train loop grants between steps."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Holds the number of the signal that asked to stop, or None."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """The shell's convention: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (self.signal_number or 0)


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Inside, the first Ctrl-C or SIGTERM only sets the request; a second one acts at once."""
    request = StopRequest()
    previous = {}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        request.signal_number = number
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
