"""Make the next items on a thread while the consumer works on the present one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TypeVar

A = TypeVar("A")
T = TypeVar("T")


@dataclass(frozen=True)
class _End:
    """The producer is done, or failed."""

    error: BaseException | None


def prefetch(make: Callable[[A], T], arguments: Iterable[A], *, depth: int = 2) -> Generator[T, None, None]:
    """Yield make(argument) for each argument, in order, at most `depth` of them made ahead.

    What `make` raises is raised here, after the items before it. Closing the generator (or leaving it, or an
    exception in the consumer's loop that drops it) stops the thread before its next item.
    """
    ready: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    stop = threading.Event()

    def produce() -> None:
        try:
            for argument in arguments:
                free.acquire()
                if stop.is_set():
                    return
                ready.put(make(argument))
            ready.put(_End(None))
        except BaseException as error:
            ready.put(_End(error))

    thread = threading.Thread(target=produce, name="dlhpc-prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            free.release()
            yield item
    finally:
        stop.set()
        free.release()
        thread.join()
