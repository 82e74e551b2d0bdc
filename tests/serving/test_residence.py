"""Versions in memory: as many as fit, the one that was idle for longest makes room, and comes back when it is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.errors import IntegrityError, ServingError
from dlhpc.monitoring.metrics import exposition
from dlhpc.serving.plan import Place, Plan, PlannedModel
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import LimitsSpec, ServingSpec
from dlhpc.spec.wire import ModelInfo
from tests.serving.asgi import Answer, body, brightness, call
from tests.serving.cluster import version

TWO = ServingSpec(models_max_gb=200e-9)
"""Room for two versions of 100 bytes."""


def sized(number: int, name: str) -> ModelInfo:
    return version(number, name).model_copy(update={"weight_bytes": 100})


A, B, C = sized(1, "a"), sized(2, "b"), sized(3, "c")
PLAN = Plan(epoch=1, models=tuple(PlannedModel(name=info.name[0], stable=info) for info in (A, B, C)))


class Loader:
    """Loads, and remembers what; `before` is called first."""

    def __init__(self, before: Callable[[ModelInfo], None] = lambda info: None) -> None:
        self.loaded: list[str] = []
        self._before = before

    def __call__(self, info: ModelInfo) -> Slot:
        self._before(info)
        self.loaded.append(info.name)
        return Slot(info, self.predictor)

    def predictor(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return brightness(inputs)


async def ask(replica: Replica, name: str) -> Answer:
    return await call(replica.app, path=f"/models/{name}/predict", parts=[body()])


def in_memory(replica: Replica) -> str:
    return "".join(name for name in "abc" if replica.models.lane(name).slot is not None)


def test_as_many_as_fit_are_loaded_and_the_one_idle_for_longest_makes_room() -> None:
    async def scenario() -> None:
        loader = Loader()
        replica = Replica(PLAN, loader, TWO, "r1")
        assert in_memory(replica) == "ab"
        for name, there in (("b", "ab"), ("a", "ab"), ("c", "ac"), ("c", "ac"), ("b", "bc"), ("a", "ab")):
            answer = await ask(replica, name)
            assert (answer.status, answer.json["model"][0]) == (200, name)
            assert in_memory(replica) == there
        assert loader.loaded == ["a:1", "b:2", "c:3", "b:2", "a:1"]
        text = exposition([("r1", list(replica.snapshot().families))], is_ready=True).decode()
        assert 'dlhpc_weights_bytes{replica="r1"} 200.0' in text
        assert f'dlhpc_model_evictions_total{{digest="{B.digest}",replica="r1"}} 1.0' in text

    asyncio.run(scenario())


def test_without_a_bound_all_are_loaded() -> None:
    assert in_memory(Replica(PLAN, Loader(), ServingSpec(), "r1")) == "abc"


def test_many_who_ask_for_a_version_wait_for_one_load() -> None:
    async def scenario() -> list[str]:
        loader = Loader()
        replica = Replica(PLAN, loader, TWO, "r1")
        assert [answer.status for answer in await asyncio.gather(*(ask(replica, "c") for _ in range(8)))] == [200] * 8
        return loader.loaded

    assert asyncio.run(scenario()) == ["a:1", "b:2", "c:3"]


def test_what_is_in_use_makes_no_room_and_who_asks_is_told_to_come_again() -> None:
    is_free = threading.Event()

    class Held(Loader):
        def predictor(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            assert is_free.wait(60)
            return brightness(inputs)

    async def scenario() -> None:
        replica = Replica(PLAN, Held(), TWO, "r1")
        busy = [asyncio.create_task(ask(replica, name)) for name in "ab"]
        while sum(replica.models.lane(name).in_flight for name in "ab") < 2:
            await asyncio.sleep(0)
        refused = await ask(replica, "c")
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (503, "overloaded", "1")
        assert "c:3 (100 bytes) does not fit beside the versions in use (200 of 200 bytes" in refused.json["detail"]
        is_free.set()
        assert [answer.status for answer in await asyncio.gather(*busy)] == [200, 200]
        assert (await ask(replica, "c")).status == 200

    asyncio.run(scenario())


def test_a_load_that_takes_longer_than_the_deadline_goes_on_for_the_next() -> None:
    is_free = threading.Event()

    def slow(info: ModelInfo) -> None:
        assert info != C or is_free.wait(60)

    async def scenario() -> None:
        spec = TWO.model_copy(update={"limits": LimitsSpec(deadline_s=0.05)})
        loader = Loader(slow)
        replica = Replica(PLAN, loader, spec, "r1")
        assert (await ask(replica, "c")).json["code"] == "deadline_exceeded"
        is_free.set()
        while replica.models.lane("c").slot is None:
            await asyncio.sleep(0.001)
        assert (await ask(replica, "c")).status == 200
        assert loader.loaded.count("c:3") == 1

    asyncio.run(scenario())


def test_a_version_that_cannot_be_loaded_again_is_refused_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    faults = [IntegrityError("weights: damaged")]

    def damaged(info: ModelInfo) -> None:
        if info == C and faults:
            raise faults.pop()

    async def scenario() -> None:
        replica = Replica(PLAN, Loader(damaged), TWO, "r1")
        refused = await ask(replica, "c")
        assert (refused.status, refused.json["code"]) == (503, "unavailable")
        assert "c:3: cannot be loaded again: weights: damaged" in caplog.text
        assert (await ask(replica, "c")).status == 200

    asyncio.run(scenario())


def test_a_change_of_version_takes_no_room_from_what_answers_for_that_model() -> None:
    async def scenario() -> None:
        newer = sized(4, "a")
        replica = Replica(PLAN, Loader(), TWO, "r1")
        await ask(replica, "b")
        change = PLAN.moved(Place("a", "stable"), newer)
        assert (await replica.prepare(change)).fault is None
        assert in_memory(replica) == "a"  # b was used later, and made room all the same
        replica.models.commit(change)
        assert (await ask(replica, "a")).json["digest"] == newer.digest
        assert replica.models.used_bytes == 100
        assert (await ask(replica, "b")).status == 200

    asyncio.run(scenario())


def test_a_change_for_which_there_is_no_room_is_refused() -> None:
    async def scenario() -> None:
        plan = Plan(epoch=1, models=(PlannedModel(name="a", stable=A),))
        replica = Replica(plan, Loader(), ServingSpec(models_max_gb=150e-9), "r1")
        fault = (await replica.prepare(plan.moved(Place("a", "stable"), sized(4, "a")))).fault
        assert fault is not None
        assert "a:4 (100 bytes) does not fit beside the versions in use (100 of 150 bytes, models_max_gb)" in fault
        assert (await ask(replica, "a")).status == 200

    asyncio.run(scenario())


def test_a_version_larger_than_the_bound_is_never_served() -> None:
    with pytest.raises(ServingError, match="a:1 has weights of 100 bytes, more than the 50 of models_max_gb"):
        Replica(PLAN, Loader(), ServingSpec(models_max_gb=50e-9), "r1")
