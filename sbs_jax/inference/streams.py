"""Groups the items of a stream as they arrive."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")

_END = object()


def arrived(items: Iterator[T], at_most: int) -> Iterator[list[T]]:
    """Groups the items that have arrived; waits only while there are none.

    A program that asks one question and waits for its answer gets it at once; a file piped in is
    worked in groups of `at_most`.

    Args:
        items: read in a thread; an exception it raises is raised here, after the items before it.
        at_most: maximum size of a group.
    """
    waiting: queue.Queue = queue.Queue(maxsize=2 * at_most)

    def read() -> None:
        try:
            for item in items:
                waiting.put((item, None))
            waiting.put((_END, None))
        except BaseException as error:
            waiting.put((_END, error))

    # A daemon: a read from an open stdin cannot be interrupted.
    threading.Thread(target=read, daemon=True).start()
    while True:
        group: list[T] = []
        item, error = waiting.get()
        while item is not _END:
            group.append(item)
            if len(group) == at_most or waiting.empty():
                break
            item, error = waiting.get()
        if group:
            yield group
        if item is _END:
            if error is not None:
                raise error
            return
