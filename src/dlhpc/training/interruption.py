"""Ctrl-C and SIGTERM: the dispatch under way is finished and a checkpoint written, before the run ends."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from dlhpc.training.events import Callback, Started, Stepped, Stop, wants


@contextmanager
def stop_on_signals() -> Iterator[Callback]:
    """While the context lasts, SIGINT and SIGTERM make the yielded callback answer with an interrupted Stop.

    A second SIGINT raises KeyboardInterrupt at once; a SIGTERM after the first signal changes nothing (launchers send
    both). Outside the main thread no handler can be set: the callback then never stops.
    """
    received: list[signal.Signals] = []
    speaks = True

    def receive(number: int, frame: FrameType | None) -> None:
        again = signal.SIGINT in received
        received.append(signal.Signals(number))
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if len(received) == 1 and speaks:
            print(f"\n{received[0].name}: writing a checkpoint; once more ends at once", file=sys.stderr, flush=True)

    @wants(Started, Stepped)
    def stop(event: Started | Stepped) -> Stop | None:
        nonlocal speaks
        if isinstance(event, Started):
            speaks = event.rank == 0
        return Stop(received[0].name, interrupted=True) if received else None

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
