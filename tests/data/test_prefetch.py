"""The thread that makes items ahead."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from dlhpc.data.prefetch import prefetch


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "dlhpc-prefetch"]


def test_items_come_in_order_and_the_thread_ends():
    assert list(prefetch(lambda x: x * x, range(50))) == [x * x for x in range(50)]
    assert not threads()


def test_no_items():
    assert list(prefetch(lambda x: x, [])) == []


def test_works_ahead_but_not_further_than_its_depth():
    made: list[int] = []
    reached = threading.Semaphore(0)

    def make(x):
        made.append(x)
        reached.release()
        return x

    with closing(prefetch(make, range(100), depth=3)) as items:
        assert next(items) == 0
        for _ in range(4):  # the one taken, and three ahead of it
            assert reached.acquire(timeout=30)
    assert made == [0, 1, 2, 3]


def test_closing_stops_a_thread_that_waits_for_room():
    items = prefetch(lambda x: x, range(10**9), depth=1)
    next(items)
    assert threads()
    items.close()
    assert not threads()


def test_an_error_comes_after_the_items_before_it():
    def make(x):
        if x == 3:
            raise ValueError("the fourth")
        return x

    items = prefetch(make, range(10))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(items)
    assert not threads()


def test_an_error_of_the_arguments_comes_through():
    def arguments():
        yield 1
        raise RuntimeError("no more arguments")

    items = prefetch(lambda x: x, arguments())
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="no more arguments"):
        next(items)


def test_a_consumer_that_fails_stops_the_thread():
    def consume():
        with closing(prefetch(lambda x: x, range(10**9))) as items:
            raise KeyError(next(items))

    with pytest.raises(KeyError):
        consume()
    assert not threads()
