"""A stream is answered as it comes: nothing waits for items that are not there yet."""

import queue
import threading
import time

import pytest

from sbs_jax.errors import UserError
from sbs_jax.inference.streams import arrived


class Pipe:
    """Items that arrive when the test says so."""

    def __init__(self):
        self.items = queue.Queue()

    def __iter__(self):
        while (item := self.items.get(timeout=20)) is not None:
            yield item


def soon(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("at_most", [1, 2, 16])
def test_one_item_is_given_at_once_while_the_stream_is_open(at_most):
    pipe = Pipe()
    groups = arrived(iter(pipe), at_most)
    for number in range(5):
        pipe.items.put(number)
        assert next(groups) == [number]
    pipe.items.put(None)
    assert list(groups) == []


@pytest.mark.parametrize(("count", "at_most"), [(0, 3), (1, 3), (3, 3), (7, 3), (50, 8)])
def test_what_is_there_comes_in_order_in_groups_of_at_most_a_batch(count, at_most):
    groups = list(arrived(iter(range(count)), at_most))
    assert [item for group in groups for item in group] == list(range(count))
    assert all(1 <= len(group) <= at_most for group in groups)


def test_items_that_arrive_while_one_is_answered_are_one_group():
    pipe = Pipe()
    groups = arrived(iter(pipe), 4)
    pipe.items.put("first")
    assert next(groups) == ["first"]
    for item in "abcdef":
        pipe.items.put(item)
    soon(pipe.items.empty)
    time.sleep(0.05)  # for the last of them to be queued
    assert next(groups) == list("abcd")
    assert next(groups) == list("ef")
    pipe.items.put(None)
    assert list(groups) == []


@pytest.mark.parametrize("error", [UserError("stdin:3: bad"), OSError("gone"), ValueError("x")])
def test_an_error_comes_after_the_items_before_it(error):
    def items():
        yield 1
        yield 2
        raise error

    seen = []
    with pytest.raises(type(error)) as caught:
        for group in arrived(items(), 8):
            seen += group
    assert caught.value is error
    assert seen == [1, 2]


def test_a_stream_nobody_reads_on_does_not_hold_the_process():
    earlier = set(threading.enumerate())
    pipe = Pipe()
    pipe.items.put(1)
    groups = arrived(iter(pipe), 1)
    assert next(groups) == [1]
    started = set(threading.enumerate()) - earlier
    assert started and all(thread.daemon for thread in started)
    pipe.items.put(None)
