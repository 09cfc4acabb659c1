"""Limits the cost of a folder's answers: a call starts only if its worst case fits."""

import asyncio

from sbs_jax.teacher.progress import Prices, money
from sbs_jax.teacher.usage import Usage


class Budget:
    """Tokens and money of a folder, over all of its runs.

    A call reserves the most it can cost, and gives back what it did not use; one that does not fit
    waits for the calls in flight, and is refused where there are none.

    Args:
        spent: (prompt, completion) tokens of earlier runs.
    """

    def __init__(
        self,
        prices: Prices,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        spent: tuple[int, int] = (0, 0),
    ) -> None:
        self._prices = prices
        self._max_tokens = max_tokens
        self._max_cost = max_cost
        self._prompt, self._completion = spent
        self._in_flight = 0
        self._changed = asyncio.Condition()

    async def reserve(self, prompt_tokens: int, completion_tokens: int) -> bool:
        """Reserves a call's worst case, waiting for calls in flight; False if it cannot fit."""
        async with self._changed:
            while not self._fits(prompt_tokens, completion_tokens):
                if not self._in_flight:
                    return False
                await self._changed.wait()
            self._add(prompt_tokens, completion_tokens)
            self._in_flight += 1
            return True

    async def settle(self, prompt_tokens: int, completion_tokens: int, used: Usage) -> None:
        """Replaces what a call reserved by what it used."""
        async with self._changed:
            self._add(
                used.prompt_tokens - prompt_tokens, used.completion_tokens - completion_tokens
            )
            self._in_flight -= 1
            self._changed.notify_all()

    def spent(self) -> str:
        """The limit that was reached, in words."""
        tokens = f"{self._prompt + self._completion:,} tokens"
        if self._max_cost is not None:
            cost = self._prices.cost(self._prompt, self._completion)
            limit, used = money(self._max_cost), f"{money(cost)}, {tokens}"
        else:
            limit, used = f"{self._max_tokens:,} tokens", tokens
        return f"the budget of {limit} has no room for another call (spent: {used})"

    def _add(self, prompt_tokens: int, completion_tokens: int) -> None:
        self._prompt += prompt_tokens
        self._completion += completion_tokens

    def _fits(self, prompt_tokens: int, completion_tokens: int) -> bool:
        prompt, completion = self._prompt + prompt_tokens, self._completion + completion_tokens
        if self._max_tokens is not None and prompt + completion > self._max_tokens:
            return False
        cost = self._prices.cost(prompt, completion)
        return self._max_cost is None or cost is None or cost <= self._max_cost
