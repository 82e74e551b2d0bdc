"""Which framework is faster, by subjects that take as long as they are told to."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlhpc.errors import DlhpcError, UsageError
from dlhpc.registry.benchmark_record import Beginning
from dlhpc.registry.cache import NodeCache
from dlhpc.registry.faster import ROUNDS, Choice, Measuring, choose
from dlhpc.spec.run import Backend
from tests.registry.samples import sample_run
from tests.registry.subjects import Scripted

BOTH: tuple[Backend, ...] = ("flax", "torch")


class Raced(Scripted):
    """A subject that can be ended; one that hangs waits for that before it began."""

    def __init__(self, race: Race, backend: Backend) -> None:
        super().__init__("aa", backend, race.paces[backend], 0.0, race.diary)
        self._hangs = race.hangs
        self._ended = threading.Event()

    def began(self) -> tuple[dict[str, Any], Beginning]:
        if self._hangs:
            assert self._ended.wait(20)
            raise DlhpcError("killed by SIGKILL")
        return super().began()

    def end(self) -> None:
        self._ended.set()


class Race:
    """Starts subjects of which each framework has a pace: milliseconds per image."""

    def __init__(self, flax: float, torch: float, *, hangs: bool = False) -> None:
        self.paces: dict[Backend, float] = {"flax": flax, "torch": torch}
        self.hangs = hangs
        self.diary: list[tuple[Any, ...]] = []

    def __call__(self, backend: Backend) -> Raced:
        self.diary.append(("aa", backend, "started"))
        return Raced(self, backend)

    @property
    def rounds(self) -> int:
        return sum(entry[-1] == "uint8" for entry in self.diary)


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    return NodeCache(tmp_path / "cache")


def asked(
    race: Callable[[Backend], Any], cache: NodeCache, installed: tuple[Backend, ...] = BOTH, **changes: Any
) -> Choice:
    said = {"run": sample_run(), "batch_sizes": (1, 32), "conditions": {"threads": "1"}, **changes}
    return choose(Measuring(start=race, cache=cache, **said), installed)


@pytest.mark.parametrize(
    ("flax", "torch", "trained", "chosen"),
    [
        (1.0, 2.0, "torch", "flax"),
        (2.0, 1.0, "flax", "torch"),
        (1.0, 2.0, "flax", "flax"),
        (1.0, 1.04, "torch", "torch"),
        (1.0, 1.06, "torch", "flax"),
    ],
)
def test_the_faster_one_is_taken_unless_it_is_hardly_faster(
    flax: float, torch: float, trained: Backend, chosen: Backend, cache: NodeCache
) -> None:
    choice = asked(Race(flax, torch), cache, run=sample_run(backend=trained))
    assert choice.backend == chosen
    assert choice.reason.startswith("measured now, ms for 1 and 32 images: flax ")
    assert ("hardly faster" in choice.reason) == (torch == 1.04)


def test_both_take_turns_and_are_closed(cache: NodeCache) -> None:
    race = Race(1.0, 2.0)
    asked(race, cache)
    flax, torch = ("aa", "flax"), ("aa", "torch")
    assert race.diary[:4] == [(*flax, "started"), (*torch, "started"), (*flax, "began"), (*torch, "began")]
    assert race.diary[4:8] == [(*flax, 1, "uint8"), (*torch, 1, "uint8"), (*flax, 32, "uint8"), (*torch, 32, "uint8")]
    assert race.diary[8:10] == [(*torch, 1, "uint8"), (*flax, 1, "uint8")]
    assert race.rounds == ROUNDS * 4
    assert race.diary[-2:] == [(*torch, "closed"), (*flax, "closed")]


def test_a_verdict_is_remembered_for_the_model_and_not_for_its_weights(cache: NodeCache) -> None:
    asked(Race(1.0, 2.0), cache, run=sample_run(seed=1))
    later = Race(2.0, 1.0)
    choice = asked(later, NodeCache(cache.folder), run=sample_run(seed=2))
    assert (choice.backend, later.diary) == ("flax", [])
    assert choice.reason.startswith("measured before, ms for 1 and 32 images: flax 2 and 64, torch 4 and 128")


@pytest.mark.parametrize("what", ["sizes", "conditions", "hardware", "versions", "model"])
def test_what_bears_on_speed_is_measured_anew(what: str, cache: NodeCache, monkeypatch: pytest.MonkeyPatch) -> None:
    asked(Race(1.0, 2.0), cache)
    changes: dict[str, Any] = {}
    if what == "sizes":
        changes = {"batch_sizes": (1, 16)}
    elif what == "conditions":
        changes = {"conditions": {"threads": "2"}}
    elif what == "model":
        run = sample_run()
        changes = {"run": run.model_copy(update={"model": run.model.model_copy(update={"hidden_sizes": (6,)})})}
    elif what == "hardware":
        monkeypatch.setattr("dlhpc.registry.faster.hardware", lambda: {"processor": "another"})
    else:
        monkeypatch.setattr("dlhpc.registry.faster.environment", lambda backend: {"jax": "999"})
    assert asked(Race(2.0, 1.0), cache, **changes).backend == "torch"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"ms": {}}', b"\xff", None])
def test_a_note_that_says_something_else_is_not_believed(content: bytes | None, cache: NodeCache) -> None:
    asked(Race(1.0, 2.0), cache)
    (note,) = cache.folder.glob("*.note")
    if content is None:
        damaged = json.loads(note.read_bytes())
        damaged["ms"]["torch"]["1"] = -1
        content = json.dumps(damaged).encode()
    note.write_bytes(content)
    assert asked(Race(2.0, 1.0), cache).backend == "torch"


def test_one_framework_needs_no_measuring(cache: NodeCache) -> None:
    race = Race(1.0, 2.0)
    assert asked(race, cache, ("torch",)) == Choice("torch", "the only framework installed")
    assert race.diary == []
    with pytest.raises(UsageError, match=r"no framework is installed: pip install 'deep-learning-hpc-demo\[flax\]'"):
        asked(race, cache, ())


def test_the_trainer_computes_where_measuring_fails_and_the_next_start_tries_again(
    cache: NodeCache, caplog: pytest.LogCaptureFixture
) -> None:
    race = Race(1.0, 2.0)

    def start(backend: Backend) -> Raced:
        subject = race(backend)
        if backend == "torch":
            subject.round = fail  # type: ignore[method-assign, assignment]
        return subject

    def fail(*asked: Any) -> Any:
        raise DlhpcError("the process ended with status 1; it said last:\nno memory")

    choice = asked(start, cache, run=sample_run(backend="torch"))
    told = "it trained the model; measuring failed: the process ended with status 1; it said last:"
    assert choice == Choice("torch", told)
    assert [entry[-1] for entry in race.diary][-2:] == ["closed", "closed"]
    assert "no memory" in caplog.text
    assert asked(Race(1.0, 2.0), cache, run=sample_run(backend="torch")).backend == "flax"


def test_measuring_ends_when_its_time_is_over_or_the_server_is_stopped(cache: NodeCache) -> None:
    race = Race(1.0, 2.0, hangs=True)
    assert "measuring failed: it took longer than 0.01 s" in asked(race, cache, limit_s=0.01).reason
    assert "measuring failed: it was told to stop" in asked(race, cache, is_unwanted=lambda: True).reason


def test_processes_that_ctrl_c_ended_first_are_no_failure(cache: NodeCache, caplog: pytest.LogCaptureFixture) -> None:
    def start(backend: Backend) -> Raced:
        raise_at_once = Raced(Race(1.0, 2.0), backend)
        raise_at_once.began = interrupted  # type: ignore[method-assign]
        return raise_at_once

    def interrupted() -> Any:
        raise DlhpcError("the process ended with status 1; it said last:\nKeyboardInterrupt")

    assert asked(start, cache, is_unwanted=lambda: True).reason.endswith("measuring failed: it was told to stop")
    assert "KeyboardInterrupt" not in caplog.text


def test_a_folder_where_others_may_write_is_measured_without(
    cache: NodeCache, caplog: pytest.LogCaptureFixture
) -> None:
    cache.folder.mkdir(mode=0o700)
    cache.folder.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert asked(Race(1.0, 2.0), cache, run=sample_run(backend="torch")).backend == "flax"
    assert "others may write to it" in caplog.text
    assert list(cache.folder.iterdir()) == []
