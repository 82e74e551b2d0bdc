"""A shadow is asked after the answer, counted, and felt by nobody."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.errors import ServingError
from dlhpc.monitoring.metrics import exposition
from dlhpc.serving.evidence import Counts
from dlhpc.serving.plan import Plan, PlannedModel, Shadow
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import body, brightness, call, png
from tests.serving.cluster import version

Predictor = Any


def plan(share: float = 1.0, most: int = 32) -> Plan:
    shadow = Shadow(info=version(2), share=share, max_pending=most)
    return Plan(epoch=1, models=(PlannedModel(name="m", stable=version(1), shadow=shadow),))


def replica_with(shadow: Predictor, plan: Plan) -> Replica:
    return Replica(plan, lambda info: Slot(info, shadow if info == version(2) else brightness), ServingSpec(), "r1")


async def ask(replica: Replica, values: list[int]) -> list[str]:
    return [(await call(replica.app, parts=[body(png(value))])).json["digest"] for value in values]


async def idle(replica: Replica) -> None:
    lane = replica.models.lane("m", "2")
    while lane.in_flight:
        await asyncio.sleep(0)


def told(replica: Replica, result: str) -> bool:
    text = exposition([("r1", list(replica.snapshot().families))], is_ready=True).decode()
    return f'dlhpc_shadow_total{{digest="{version(2).digest}",replica="r1",result="{result}"}}' in text


def always_light(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return np.tile(np.array([0.25, 0.75], np.float32), (len(inputs), 1))


def ill(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    raise RuntimeError("ill")


@pytest.mark.parametrize(("share", "compared"), [(1.0, 8), (0.5, 4), (0.25, 2)])
def test_its_share_of_the_images_is_compared(share: float, compared: int) -> None:
    async def scenario() -> None:
        replica = replica_with(always_light, plan(share))
        assert await ask(replica, [255, 255, 255, 255, 0, 0, 0, 0]) == [version(1).digest] * 8
        await idle(replica)
        counts = dict(replica.snapshot().counts)
        assert (counts[version(2).digest].compared, counts[version(2).digest].differed) == (compared, compared // 2)
        assert counts[version(1).digest].answers == 8
        assert told(replica, "agreed")
        assert told(replica, "differed")

    asyncio.run(scenario())


def test_a_shadow_that_fails_is_counted_and_felt_by_nobody() -> None:
    async def scenario() -> None:
        replica = replica_with(ill, plan())
        assert await ask(replica, [255, 0]) == [version(1).digest] * 2
        await idle(replica)
        counts = dict(replica.snapshot().counts)[version(2).digest]
        assert (counts.answers, counts.failed, counts.compared) == (2, 2, 0)
        assert told(replica, "failed")

    asyncio.run(scenario())


def test_a_shadow_that_hangs_holds_nobody_up_and_no_more_than_it_may() -> None:
    async def scenario() -> None:
        is_free = threading.Event()

        def held(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
            assert is_free.wait(60)
            return brightness(inputs)

        replica = replica_with(held, plan(most=2))
        lane = replica.models.lane("m", "2")
        assert await ask(replica, [255] * 5) == [version(1).digest] * 5
        assert lane.in_flight == 2
        assert told(replica, "dropped")
        is_free.set()
        await idle(replica)
        assert dict(replica.snapshot().counts)[version(2).digest].compared == 2

    asyncio.run(scenario())


def test_after_a_roll_back_it_is_asked_no_more() -> None:
    async def scenario() -> None:
        replica = replica_with(always_light, plan())
        replica.models.commit(plan().rolled_back("m", version(2).digest, "it differed"))
        await ask(replica, [255])
        await idle(replica)
        assert dict(replica.snapshot().counts) == {version(1).digest: Counts(), version(2).digest: Counts()}

    asyncio.run(scenario())


def test_a_shadow_of_another_shape_is_refused() -> None:
    other = version(2).model_copy(update={"input_shape": (8, 8, 1)})
    shadow = Shadow(info=other, share=1.0, max_pending=1)
    wrong = Plan(epoch=2, models=(PlannedModel(name="m", stable=version(1), shadow=shadow),))
    told = "m:2 takes images of [8, 8, 1], but the shadow of m:1 is given [4, 6, 1]"
    with pytest.raises(ServingError) as caught:
        replica_with(brightness, wrong)
    assert str(caught.value) == told
    replica = replica_with(brightness, plan())
    assert asyncio.run(replica.prepare(wrong)).fault == told
