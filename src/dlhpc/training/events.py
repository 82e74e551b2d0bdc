"""What happens in a run, told to callbacks. Events carry facts, never the trainer.

    Started      once, before the first step
    Stepped      after every dispatch; its metrics are still on the device
    Logged       every `training.log_every` steps, at each evaluation and at each checkpoint; plain numbers
    Evaluated    after a pass over the held-out part
    Checkpointed after a checkpoint is safely on disk
    Finished     once, after the last step or a stop

A callback is a function of an event; returning Stop ends the run after the current dispatch. `wants` says which
events it is called with: an event that nobody wants is never made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

Part = Literal["train", "validation"]


@dataclass(frozen=True, slots=True)
class Stop:
    """A callback's wish to end the run after the current dispatch."""

    reason: str
    interrupted: bool = False
    """The run is to be taken up again: write a checkpoint and leave without choosing the best weights."""


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins, or goes on."""

    step: int
    """Steps already done: 0, or where the run was resumed."""
    total_steps: int
    steps_per_epoch: int
    num_epochs: int
    rank: int
    """Number of this process; callbacks that print or write do so on rank 0 alone."""
    world_size: int


@dataclass(frozen=True, slots=True)
class Stepped:
    """One dispatch of K steps was handed to the device."""

    step: int
    """Steps done, this dispatch included."""
    metrics: Mapping[str, Any]
    """Arrays [K] on the device: reading them waits for the device."""


@dataclass(frozen=True, slots=True)
class Logged:
    """Averages over the steps since the last such event."""

    step: int
    epoch: float
    """Passes over the training part, fractions included."""
    loss: float
    accuracy: float
    learning_rate: float
    """Of the last step."""
    examples_per_second: float
    """Without the time spent in evaluations and checkpoints."""
    seconds: float
    """Time spent on the run so far, interruptions left out."""
    first_bad_step: int | None
    """Number (from 0) of the first step from which the run cannot go on, its loss or gradients not being finite."""
    non_finite_steps: int = 0
    """Steps whose gradients were not finite and were dealt with, as `training.non_finite_gradients` says."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A pass over the held-out part."""

    step: int
    epoch: float
    loss: float
    accuracy: float
    examples: int
    seconds: float
    """As in Logged."""
    is_best: bool
    """Better than every earlier evaluation of this run."""


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A checkpoint is on disk."""

    step: int
    path: Path | None
    """Its folder; None on ranks other than 0, which do not write."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The loop has ended."""

    step: int
    seconds: float
    stop: Stop | None
    """Why the run ended early (the class of an exception, when one ends it); None after the last step."""


Event = Started | Stepped | Logged | Evaluated | Checkpointed | Finished
EVENTS: tuple[type[Event], ...] = (Started, Stepped, Logged, Evaluated, Checkpointed, Finished)
Callback = Callable[[Any], Stop | None]
"""Called with each event it wants (Any of Event, narrowed by the callback's own `match`)."""

C = TypeVar("C", bound=Callback)
E = TypeVar("E", Started, Stepped, Logged, Evaluated, Checkpointed, Finished)


def wants(*kinds: type[Event]) -> Callable[[C], C]:
    """Decorator: call the callback with these events alone. Without it a callback is called with all of them."""

    def mark(callback: C) -> C:
        callback.wants = kinds  # type: ignore[attr-defined]
        return callback

    return mark


class Listeners(Generic[E]):
    """The callbacks that want one kind of event. False when there are none, so that the event need not be made."""

    __slots__ = ("_callbacks",)

    def __init__(self, callbacks: tuple[Callback, ...]) -> None:
        self._callbacks = callbacks

    def __bool__(self) -> bool:
        return bool(self._callbacks)

    def tell(self, event: E) -> Stop | None:
        """Call everyone; the first Stop counts, an interruption before any other."""
        stop: Stop | None = None
        for callback in self._callbacks:
            answer = callback(event)
            if answer is not None and (stop is None or (answer.interrupted and not stop.interrupted)):
                stop = answer
        return stop


def listeners(kind: type[E], callbacks: tuple[Callback, ...]) -> Listeners[E]:
    """Those of the callbacks that want this kind of event, in their order."""
    return Listeners(tuple(c for c in callbacks if kind in getattr(c, "wants", EVENTS)))
