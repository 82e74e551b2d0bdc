"""Which callbacks hear what, and whose Stop counts."""

from __future__ import annotations

from pathlib import Path

from dlhpc.training.events import Checkpointed, Finished, Stepped, Stop, listeners, wants

SAVED = Checkpointed(3, Path("step-3"))


def test_callback_hears_only_what_it_wants() -> None:
    heard: list[object] = []

    @wants(Checkpointed)
    def some(event: Checkpointed) -> None:
        heard.append(event)

    assert not listeners(Stepped, (some,))
    assert listeners(Checkpointed, (some,))
    assert listeners(Checkpointed, (some,)).tell(SAVED) is None
    assert heard == [SAVED]


def test_callback_without_wants_hears_everything() -> None:
    heard: list[object] = []
    heard_of = (listeners(Stepped, (heard.append,)), listeners(Checkpointed, (heard.append,)))
    assert all(heard_of)


def test_callback_object_names_its_wants_as_an_attribute() -> None:
    class Counter:
        wants = (Finished,)

        def __call__(self, event: Finished) -> None:
            raise AssertionError(event)

    assert not listeners(Stepped, (Counter(),))
    assert listeners(Finished, (Counter(),))


def test_everyone_is_told_and_the_first_stop_counts() -> None:
    told: list[int] = []

    def answering(number: int, stop: Stop | None) -> object:
        def callback(event: object) -> Stop | None:
            told.append(number)
            return stop

        return callback

    callbacks = (answering(1, None), answering(2, Stop("two")), answering(3, Stop("three")))
    assert listeners(Checkpointed, callbacks).tell(SAVED) == Stop("two")  # type: ignore[arg-type]
    assert told == [1, 2, 3]


def test_an_interruption_counts_before_any_other_stop() -> None:
    callbacks = (lambda event: Stop("enough"), lambda event: Stop("SIGTERM", interrupted=True))
    assert listeners(Checkpointed, callbacks).tell(SAVED) == Stop("SIGTERM", interrupted=True)
