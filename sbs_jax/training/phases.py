"""Times the phases of a run's start; profiles some of its steps."""

import time
from typing import Any

import jax

from sbs_jax.runs import layout
from sbs_jax.utils.console import is_primary, say

# The first updates of a profile would show caches being filled.
_UPDATES_BEFORE_PROFILE = 2


class Phases:
    """Seconds of the phases of a start.

    Args:
        started: `time.monotonic()` at the start of the program; default: now.
    """

    def __init__(self, started: float | None = None) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.monotonic() if started is None else started

    def end(self, name: str) -> float:
        """Ends the current phase under this name; returns its seconds."""
        now = time.monotonic()
        self._seconds[name] = now - self._last
        self._last = now
        return self._seconds[name]

    def first_update(self, metrics: Any) -> None:
        """Waits for the first update, and prints all phases."""
        jax.block_until_ready(metrics)
        self.end("first update")
        say(f"seconds to the first update: {self}")

    def __str__(self) -> str:
        listed = ", ".join(f"{name} {seconds:.1f}" for name, seconds in self._seconds.items())
        return f"{listed}; together {sum(self._seconds.values()):.1f}"


class Profiler:
    """Writes a profile of some updates to MODEL_DIR/profile, for TensorBoard or XProf.

    Args:
        first: index of the first update of this start.
        steps: number of updates to profile; 0 for none.
    """

    def __init__(self, model_dir: str, first: int, steps: int) -> None:
        self._folder = f"{model_dir}/{layout.PROFILE}"
        self._start = first + _UPDATES_BEFORE_PROFILE
        self._stop = self._start + steps
        self._enabled = steps > 0 and is_primary()

    def before(self, index: int, wait_for: Any = None) -> None:
        """Starts or ends the profile; called before every update and after the last one."""
        if not self._enabled:
            return
        if index == self._start:
            jax.profiler.start_trace(self._folder)
        elif index == self._stop:
            jax.block_until_ready(wait_for)
            jax.profiler.stop_trace()
            say(f"{self._folder}: profile of {self._stop - self._start} updates written")

    def close(self, index: int, wait_for: Any = None) -> None:
        """Ends the profile if the run ends with it, or before."""
        if self._enabled and self._start < index <= self._stop:
            self._stop = index
            self.before(index, wait_for)
        elif self._enabled and index <= self._start:
            say(
                f"--profile_steps: no profile written; it begins after {_UPDATES_BEFORE_PROFILE} "
                "updates of a start, and this one made no more; increase TRAIN_STEPS"
            )
