"""What a person who waits wants to know: done, failed, tokens, money, time left."""

import dataclasses
import math
import sys
import time
from collections.abc import Mapping

_MILLION = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Prices:
    """US dollars (or any currency) per million tokens; None where they are not known."""

    input: float | None = None
    output: float | None = None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """None unless both prices are known."""
        if self.input is None or self.output is None:
            return None
        return (prompt_tokens * self.input + completion_tokens * self.output) / _MILLION


def money(cost: float | None) -> str:
    """``$0.0123``, or a hint where prices are missing."""
    return "cost unknown (--price_in, --price_out)" if cost is None else f"${cost:,.4f}"


class Progress:
    """Counts of one run, and a line about them to stderr every `period` seconds."""

    def __init__(self, total: int, prices: Prices, period: float = 10.0) -> None:
        self.total = total
        self.done = self.failed = self.too_long = 0
        self.calls = self.prompt_tokens = self.completion_tokens = 0
        self._prices = prices
        self._period = period
        self._began = self._said = time.monotonic()

    @property
    def cost(self) -> float | None:
        return self._prices.cost(self.prompt_tokens, self.completion_tokens)

    def called(self, usage: Mapping[str, int]) -> None:
        """One call was answered."""
        self.calls += 1
        self.prompt_tokens += usage.get("prompt_tokens", 0)
        self.completion_tokens += usage.get("completion_tokens", 0)

    def tick(self) -> None:
        """Prints the line when it is due."""
        now = time.monotonic()
        if now - self._said >= self._period:
            self._said = now
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        if not self.total:
            return "nothing to ask: the journal has every answer"
        elapsed = time.monotonic() - self._began
        settled = self.done + self.failed + self.too_long
        rate = settled / elapsed if elapsed > 0 else 0.0
        left = (self.total - settled) / rate if rate else math.inf
        tokens = f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens"
        return (
            f"{self.done}/{self.total} done  {self.failed} failed  {self.too_long} too long  "
            f"{tokens}  {money(self.cost)}  {rate:.1f}/s  ETA {_clock(left)}"
        )


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
