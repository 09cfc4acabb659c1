"""Batches questions of several callers."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

from sbs_jax.datasets.records import Record
from sbs_jax.inference import streams

Answer = dict[str, Any]
# (records, with rationales) -> an answer of each
Ask = Callable[[Sequence[Record], bool], list[Answer]]

_END = object()


class Full(Exception):
    """More questions wait than the queue holds."""


class Batcher:
    """A thread that answers the queue, at most a batch at a time.

    Args:
        ask: called in that thread alone.
        batch_size: maximum number of questions that are answered together.
        capacity: number of questions that may wait.

    Attributes:
        capacity: as given.
    """

    def __init__(self, ask: Ask, batch_size: int, capacity: int) -> None:
        self._ask = ask
        self._batch_size = batch_size
        self.capacity = capacity
        self._waiting: queue.Queue = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, records: Sequence[Record], with_rationales: bool) -> "list[Future[Answer]]":
        """The future answers to a caller's questions. Raises Full where too many wait."""
        futures: list[Future[Answer]] = []
        try:
            for record in records:
                future: Future[Answer] = Future()
                self._waiting.put_nowait((record, with_rationales, future))
                futures.append(future)
        except queue.Full:
            for future in futures:
                future.cancel()  # the caller asks again
            raise Full from None
        return futures

    def is_alive(self) -> bool:
        """Whether questions are being answered."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Answers the queue, and ends the thread."""
        self._waiting.put(_END)
        self._thread.join()

    def _run(self) -> None:
        questions: Iterator = iter(self._waiting.get, _END)
        for group in streams.arrived(questions, self._batch_size):
            for wanted in (False, True):
                self._answer([item for item in group if item[1] is wanted], wanted)

    def _answer(self, items: list, with_rationales: bool) -> None:
        """Sets the futures of questions that want the same; an error goes to their callers."""
        items = [item for item in items if item[2].set_running_or_notify_cancel()]
        if not items:
            return
        try:
            answers = self._ask([record for record, _, _ in items], with_rationales)
        except Exception as error:
            for _, _, future in items:
                future.set_exception(error)
            return
        for (_, _, future), answer in zip(items, answers, strict=True):
            future.set_result(answer)
