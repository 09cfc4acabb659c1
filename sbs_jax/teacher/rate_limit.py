"""Limits requests and tokens per minute by spacing calls."""

import asyncio


class PerMinute:
    """Lets an amount through per minute, evenly; an unlimited one (None) never waits.

    What a call costs may be known only afterwards: `correct` charges or returns the difference.
    """

    def __init__(self, limit: float | None) -> None:
        self._seconds_each = 60.0 / limit if limit else 0.0
        self._free_at = 0.0

    async def take(self, amount: float = 1.0) -> None:
        """Waits until `amount` may start."""
        if not self._seconds_each:
            return
        now = asyncio.get_running_loop().time()
        start = max(now, self._free_at)
        self._free_at = start + amount * self._seconds_each
        if start > now:
            await asyncio.sleep(start - now)

    def correct(self, amount: float) -> None:
        """Charges a further `amount` (negative: gives back) to later calls."""
        self._free_at += amount * self._seconds_each
