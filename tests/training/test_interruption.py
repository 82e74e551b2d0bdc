"""Signals end a run gently, a second Ctrl-C at once."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from dlhpc.training.events import Started, Stepped, Stop
from dlhpc.training.interruption import stop_on_signals

STEPPED = Stepped(1, {})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_answered_at_the_next_event(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as callback:
        assert callback(STEPPED) is None
        os.kill(os.getpid(), number)
        assert callback(STEPPED) == Stop(number.name, interrupted=True)
    assert signal.getsignal(number) is before
    assert f"{number.name}: writing a checkpoint" in capsys.readouterr().err


def test_a_second_ctrl_c_ends_at_once() -> None:
    with stop_on_signals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_launchers_may_send_both(capsys: pytest.CaptureFixture[str]) -> None:
    with stop_on_signals() as callback:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert callback(STEPPED) == Stop("SIGTERM", interrupted=True)
    assert capsys.readouterr().err.count("writing a checkpoint") == 1


def test_outside_the_main_thread_it_never_stops() -> None:
    answers: list[Stop | None] = []

    def work() -> None:
        with stop_on_signals() as callback:
            answers.append(callback(STEPPED))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=60)
    assert answers == [None]


def test_one_process_speaks_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    with stop_on_signals() as callback:
        callback(Started(0, 10, 10, 1, rank=1, world_size=2))
        os.kill(os.getpid(), signal.SIGINT)
        assert callback(STEPPED) == Stop("SIGINT", interrupted=True)
    assert capsys.readouterr().err == ""
