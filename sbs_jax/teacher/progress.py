"""Progress of a run: questions done and failed, tokens, cost, time left."""

import dataclasses
import math
from collections.abc import Mapping

from sbs_jax.teacher.usage import Usage
from sbs_jax.utils import console

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
    """``$0.0123``, ``$0.000012``, or a hint where prices are missing."""
    if cost is None:
        return "cost unknown (--price_in, --price_out)"
    digits = max(4, 1 - math.floor(math.log10(cost))) if cost > 0 else 4
    return f"${cost:,.{digits}f}"


class Progress:
    """Counts of one run, and a line about them to stderr every `period` seconds.

    Attributes:
        total: questions to ask; `done`, `failed` and `too_long` of them are settled.
    """

    def __init__(self, total: int, prices: Prices, period: float = 10.0) -> None:
        self.total = total
        self.done = self.failed = self.too_long = 0
        self.prompt_tokens = self.completion_tokens = 0
        self._estimated = False
        self._prices = prices
        self._clock = console.Progress("annotate", total, period=period)

    @property
    def cost(self) -> float | None:
        """What this run has cost so far."""
        return self._prices.cost(self.prompt_tokens, self.completion_tokens)

    def called(self, usage: Usage) -> None:
        """One call was answered."""
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        self._estimated = self._estimated or usage.estimated

    def lost(self, usage: Mapping[str, int]) -> None:
        """A call was paid for and its answer cannot be used."""
        self.prompt_tokens += usage.get("prompt_tokens", 0)
        self.completion_tokens += usage.get("completion_tokens", 0)

    def tick(self) -> None:
        """Prints the line when it is due."""
        if self._clock.due():
            console.say(self.line())

    def line(self) -> str:
        """Counts, tokens, cost, pace and the time left."""
        if not self.total:
            return "nothing to ask: the journal has every answer"
        settled = self.done + self.failed + self.too_long
        rate = settled / max(self._clock.elapsed(), 1e-9)
        eta = self._clock.eta(float(settled))
        about = "about " if self._estimated else ""
        cost = money(self.cost) if self.cost is None else about + money(self.cost)
        return (
            f"{self.done}/{self.total} done  {self.failed} failed  {self.too_long} too long  "
            f"{about}{self.prompt_tokens:,} + {self.completion_tokens:,} tokens  {cost}  "
            f"{rate:.1f}/s  ETA {'?' if eta is None else console.duration(eta)}"
        )
