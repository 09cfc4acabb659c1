"""Prints to stderr: messages, durations, progress with an ETA."""

import math
import sys
import time


def is_primary() -> bool:
    """Whether this process writes files and prints: process 0, or a single-process run."""
    jax = sys.modules.get("jax")  # without jax this is a single-process run
    return jax is None or not jax.distributed.is_initialized() or jax.process_index() == 0


def say(message: str, end: str = "\n") -> None:
    """Prints a line to stderr, on process 0 only."""
    if is_primary():
        print(message, end=end, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, rounded up to a second: 0:01:30."""
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


class Progress:
    """Prints a progress line when one is due: every `period` seconds, rewritten on a terminal.

    Quick work prints nothing. Whoever counts other things as well (tokens, money) writes the line
    and asks `due()`; everyone else calls `update`.

    Attributes:
        total: units of work, or None where the number is unknown.
    """

    def __init__(
        self, name: str, total: int | None = None, unit: str = "", period: float = 10.0
    ) -> None:
        self.total = total
        self._name = name
        self._unit = unit
        self._period = period
        self._start = self._last = time.monotonic()

    def due(self) -> bool:
        """Whether `period` seconds have passed since the last line; True restarts the period."""
        now = time.monotonic()
        if now - self._last < self._period:
            return False
        self._last = now
        return True

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def eta(self, done: int | float) -> float | None:
        """Seconds left at the mean pace so far; None before the first unit or without a total."""
        if self.total is None or done <= 0:
            return None
        return self.elapsed() * (self.total - done) / done

    def line(self, done: int) -> str:
        """``NAME: 1,200/4,000 examples  310.0/s  ETA 0:00:10``."""
        of = "" if self.total is None else f"/{self.total:,}"
        pace = done / max(self.elapsed(), 1e-9)
        eta = self.eta(done)
        left = "" if eta is None else f"  ETA {duration(eta)}"
        unit = f" {self._unit}" if self._unit else ""
        return f"{self._name}: {done:,}{of}{unit}  {pace:,.1f}/s{left}"

    def update(self, done: int) -> None:
        """Prints the line if it is due."""
        if self.due():
            say(self.line(done))
