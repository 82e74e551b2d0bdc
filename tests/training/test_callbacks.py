"""What is shown of a run, and what ends it."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest

from dlhpc.errors import TrainingError
from dlhpc.training.callbacks import progress, stop_on_nan
from dlhpc.training.events import Checkpointed, Evaluated, Finished, Logged, Started, Stepped


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def started(rank: int = 0, step: int = 0) -> Started:
    return Started(step, 300, 100, 3, rank, 1)


def logged(step: int, bad: int | None = None, non_finite: int = 0) -> Logged:
    loss = math.nan if bad is not None else 0.51234
    return Logged(step, step / 100, loss, 0.8765, 0.01, 12345.6, 2.0, bad, non_finite)


def evaluated(step: int, loss: float = 0.25, *, is_best: bool = True) -> Evaluated:
    return Evaluated(step, step / 100, loss, 0.9375, 64, 2.0, is_best)


def test_lines_without_a_terminal() -> None:
    stream, clock = io.StringIO(), Clock()
    show = progress(stream, clock)
    show(started())
    clock.now = 5.0
    show(logged(50))
    assert stream.getvalue() == ""
    clock.now = 11.0
    show(logged(99))
    clock.now = 20.0
    show(evaluated(100))
    clock.now = 40.0
    show(evaluated(200, is_best=False))
    assert stream.getvalue().splitlines() == [
        "epoch 1/3  loss 0.5123  accuracy 0.876  12,346 examples/s  0:22 left",
        "epoch 1/3  validation loss 0.2500  accuracy 0.9375  best  0:40 left",
        "epoch 2/3  validation loss 0.2500  accuracy 0.9375  0:20 left",
    ]


def test_steps_with_non_finite_gradients_are_shown() -> None:
    stream, clock = io.StringIO(), Clock()
    show = progress(stream, clock)
    show(started())
    clock.now = 11.0
    show(logged(50, non_finite=3))
    assert "12,346 examples/s  3 non-finite  " in stream.getvalue()


def test_time_left_counts_from_where_the_run_was_resumed() -> None:
    stream, clock = io.StringIO(), Clock()
    show = progress(stream, clock)
    show(started(step=100))
    clock.now = 3600.0
    show(evaluated(200))
    assert stream.getvalue().endswith("1:00:00 left\n")


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream, clock = Terminal(), Clock()
    show = progress(stream, clock)
    show(started())
    for step in (1, 2, 120):
        clock.now += 0.06
        show(Stepped(step, {}))
    drawn = stream.getvalue()
    assert "epoch 1/3" in drawn
    assert "1/300" in drawn
    assert "2/300" not in drawn  # too soon after the last
    assert "120/300" in drawn
    assert "epoch 2/3" in drawn
    show(logged(150))
    show(evaluated(200))
    show(Finished(300, 9.0, None))
    assert "loss 0.5123  accuracy 0.876  12,346 ex/s" in stream.getvalue()
    assert "validation loss 0.2500  accuracy 0.9375  best" in stream.getvalue()
    assert "300/300" in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_other_ranks_show_nothing(stream: io.StringIO) -> None:
    show = progress(stream, Clock())
    events: list[Any] = [started(rank=1), Stepped(1, {}), logged(50), evaluated(100), Finished(300, 9.0, None)]
    for event in events:
        if type(event) in show.wants:  # type: ignore[attr-defined]
            show(event)
    assert stream.getvalue() == ""


def test_the_default_is_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    show = progress()
    show(started())
    show(evaluated(100))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "epoch 1/3" in captured.err


def test_nan_ends_the_run_and_says_what_to_do() -> None:
    check = stop_on_nan(0.5, Path("runs/x/checkpoints/step-00000010"))
    assert check(logged(50)) is None
    with pytest.raises(TrainingError) as caught:
        check(logged(60, bad=57))
    for part in ("step 57", "loss is not finite", "training.learning_rate", "0.5", "step-00000010"):
        assert part in str(caught.value)
    check(Checkpointed(60, Path("runs/x/checkpoints/step-00000060")))
    with pytest.raises(TrainingError, match=r"step 100: the validation loss .* checkpoint is .*step-00000060"):
        check(evaluated(100, math.inf))


def test_gradients_that_no_policy_helps_end_the_run() -> None:
    check = stop_on_nan(0.5)
    assert check(logged(50, non_finite=50)) is None
    with pytest.raises(TrainingError, match="step 57: the gradients are not finite any more"):
        check(logged(110, bad=57, non_finite=50))


def test_nan_before_any_checkpoint() -> None:
    with pytest.raises(TrainingError, match="no checkpoint had been written yet"):
        stop_on_nan(0.5)(logged(60, bad=57))
