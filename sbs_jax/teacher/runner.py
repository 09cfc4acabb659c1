"""Requests every answer that the journal lacks: many calls in flight, each stored on arrival.

The rules of a run:

1. a fixed number of workers take requests in order, until there are none;
2. an answer is in the journal before the next call of its worker begins, so a kill can cost at most
   one paid call per worker;
3. a failed call leaves no answer, only the tokens it was paid with: the next run asks again;
4. `MOST_FAILURES` failed calls in a row, without one success between them, end the run;
5. an interrupt stops new calls and waits for those in flight; a second one drops them.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import signal
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sbs_jax.teacher import usage
from sbs_jax.teacher.budget import Budget
from sbs_jax.teacher.client import Client, Failed, Stop, TooLong
from sbs_jax.teacher.journal import Journal, Row, Writer
from sbs_jax.teacher.progress import Progress
from sbs_jax.teacher.rate_limit import PerMinute
from sbs_jax.teacher.replies import Choice, Reply
from sbs_jax.teacher.requests import Request
from sbs_jax.utils import console

MOST_FAILURES = 10


@dataclasses.dataclass
class Outcome:
    """How a run went.

    Attributes:
        failures: (record id, question) -> why, for what a later run will ask again.
        too_long: (record id, question) -> the server's words.
        stopped: why the run ended early; empty if it did not.
        budget: the limit of tokens or money that ended it; empty if none did.
        interrupted: whether a person (or the machine's shutdown) ended it.
    """

    failures: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    too_long: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    stopped: str = ""
    budget: str = ""
    interrupted: bool = False

    def add(self, later: "Outcome") -> None:
        """Takes in how a second run went."""
        self.failures |= later.failures
        self.too_long |= later.too_long
        self.stopped = self.stopped or later.stopped
        self.budget = self.budget or later.budget
        self.interrupted = self.interrupted or later.interrupted


class _Spent(Exception):
    """The budget has no room for another call."""


def missing(journal: Journal, request: Request, n: int) -> list[int]:
    """The samples of a request that the journal lacks."""
    return [sample for sample in range(n) if request.key(sample) not in journal]


class Asker:
    """Sends the requests of one run."""

    def __init__(
        self,
        client: Client,
        journal: Writer,
        progress: Progress,
        n: int = 1,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        budget: Budget | None = None,
    ) -> None:
        self._client = client
        self._journal = journal
        self._progress = progress
        self._n = n
        self._concurrency = concurrency
        self._calls = PerMinute(requests_per_minute)
        self._tokens = PerMinute(tokens_per_minute)
        self._budget = budget
        self._outcome = Outcome()
        self._failures_in_a_row = self._ran_out_in_a_row = 0
        self._reported_bound = False
        self._stopping = False

    async def run(self, requests: Iterable[Request]) -> Outcome:
        """Asks for what is missing of `requests`. Raises UserError where the disk is full."""
        source = iter(requests)
        with self._interruptible() as tasks:
            tasks.extend(
                asyncio.ensure_future(self._work(source)) for _ in range(self._concurrency)
            )
            try:
                await asyncio.gather(*tasks)
            except asyncio.CancelledError:
                self._outcome.interrupted = True
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        return self._outcome

    async def _work(self, source: Iterator[Request]) -> None:
        while not self._stopping:
            request = next(source, None)
            if request is None:
                return
            await self._answer(request)
            self._progress.tick()

    async def _answer(self, request: Request) -> None:
        """Asks until all samples of one request are there, or it fails."""
        progress, outcome = self._progress, self._outcome
        try:
            while samples := missing(self._journal, request, self._n):
                if self._stopping:
                    return
                reply = await self._call(request, len(samples))
                self._journal.add(journal_rows(request, samples, reply))
                progress.called(usage.of(reply, request))
                if missing(self._journal, request, self._n) == samples:
                    raise Failed("its answer cannot be kept in the journal")
                self._judge(request, reply)
            progress.done += 1
        except TooLong as error:
            outcome.too_long[request.record] = str(error)
            progress.too_long += 1
        except Stop as error:
            self._stop(str(error))
        except _Spent:
            self._stopping = True
            outcome.budget = self._budget.spent() if self._budget else ""
        except Failed as error:
            outcome.failures[request.record] = str(error)
            progress.failed += 1
            progress.lost(error.usage)
            if error.usage:
                self._journal.add([paid_row(request, error)])
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= MOST_FAILURES:
                self._stop(f"{MOST_FAILURES} calls failed in a row, the last with: {error}")

    def _judge(self, request: Request, reply: Reply) -> None:
        """Ends a run whose answers are all cut off before they begin; reports broken bounds."""
        beyond = "" if self._reported_bound else usage.beyond_bound(reply, request)
        if beyond:
            self._reported_bound = True
            console.say(beyond)
        ran_out = all(choice.ran_out for choice in reply.choices)
        self._ran_out_in_a_row = self._ran_out_in_a_row + 1 if ran_out else 0
        self._failures_in_a_row = 0
        if self._ran_out_in_a_row >= MOST_FAILURES:
            self._stop(
                f"{MOST_FAILURES} answers in a row were cut off before they began: the tokens went "
                "into the model's thoughts; raise --max_tokens"
            )

    async def _call(self, request: Request, n: int) -> Reply:
        """One call within all limits. Raises as `Client.complete`, and _Spent."""
        most = n * usage.bound(request.body)
        if self._budget and not await self._budget.reserve(request.prompt_tokens, most):
            raise _Spent
        used = usage.Usage()
        try:
            reply = await self._limited(request, n, float(request.prompt_tokens + most))
            used = usage.of(reply, request)
        except Failed as error:
            used = usage.Usage(*usage.spent({"usage": dict(error.usage)}))
            raise
        finally:
            if self._budget:
                await self._budget.settle(request.prompt_tokens, most, used)
        return reply

    async def _limited(self, request: Request, n: int, most: float) -> Reply:
        # The budget is an upper bound: what the completion did not use is given back.
        await self._calls.take()
        await self._tokens.take(most)
        reply = await self._client.complete(request.body, n)
        if reply.usage:
            self._tokens.correct(sum(reply.usage.values()) - most)
        return reply

    def _stop(self, why: str) -> None:
        self._stopping = True
        self._outcome.stopped = self._outcome.stopped or why

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[list[asyncio.Future]]:
        """Turns SIGINT and SIGTERM into a soft stop, the second of them into a hard one."""
        tasks: list[asyncio.Future] = []

        def interrupt() -> None:
            if self._outcome.interrupted:
                for task in tasks:
                    task.cancel()
                return
            self._stopping = self._outcome.interrupted = True
            console.say("stopping: waiting for the calls in flight (interrupt again to drop them)")

        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        # Only the main thread may handle signals; elsewhere they stay the caller's business.
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            for number in signals:
                loop.add_signal_handler(number, interrupt)
        try:
            yield tasks
        finally:
            for number in signals:
                with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
                    loop.remove_signal_handler(number)


def journal_rows(request: Request, samples: list[int], reply: Reply) -> list[Row]:
    """The journal's lines for a reply; without choices beyond those requested."""
    # The messages are rebuilt from settings.json and the input; their hash proves which they were.
    sent = request.body if reply.sent is None else reply.sent
    tokens = usage.of(reply, request)
    common = _as_sent(request, sent) | {
        "model_answered": reply.model,
        "response_id": reply.response_id,
        "attempts": reply.attempts,
    }
    if tokens.estimated:
        common["usage_estimated"] = True
    rows: list[Row] = []
    for sample, choice in zip(samples, reply.choices, strict=False):
        counts = {} if rows else tokens.to_json()
        row = {"key": request.key(sample), "id": request.id, "sample": sample, **common}
        rows.append(row | _completion(choice) | {"usage": counts})
    return rows


def paid_row(request: Request, failure: Failed) -> Row:
    """The journal's line for what a call without a usable answer took."""
    about = {"id": request.id, **_as_sent(request, request.body), "problem": str(failure)}
    # An empty text is no answer, to earlier versions too; and no sample has this key.
    empty = {"text": "", "finish_reason": None, "usage": dict(failure.usage)}
    return {"key": request.sha, **about, **empty}


def _as_sent(request: Request, sent: Mapping[str, Any]) -> Row:
    """What the line of any call says of its request."""
    return {
        "prompt_sha": request.prompt_sha,
        "model": request.body["model"],
        "params": {k: v for k, v in sent.items() if k not in ("model", "messages", "prompt")},
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _completion(choice: Choice) -> Row:
    row: Row = {"text": choice.text, "finish_reason": choice.finish_reason}
    if choice.tokens:
        row["logprobs"] = [[token, round(value, 4)] for token, value in choice.tokens]
    apart = {"thoughts": choice.thoughts, "refusal": choice.refusal}
    return row | {name: text for name, text in apart.items() if text}
