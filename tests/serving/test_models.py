"""Which lane answers for which model, and that a lane has guards of its own."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.errors import IntegrityError, ServingError
from dlhpc.monitoring.metrics import exposition
from dlhpc.serving.exchange import Refusal
from dlhpc.serving.plan import Place, Plan, PlannedModel, Prepared, plan_of
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.breaker import BreakerSpec
from dlhpc.spec.serving import CacheSpec, ServingSpec
from dlhpc.spec.wire import ModelInfo
from tests.serving.asgi import INFO, Answer, body, brightness, call, png


def info_of(name: str, letter: str) -> ModelInfo:
    return INFO.model_copy(update={"name": name, "digest": f"sha256:{letter * 64}"})


CATS, DOGS = info_of("cats:1", "b"), info_of("dogs:4", "c")
PLAN = Plan(epoch=1, models=(PlannedModel(name="cats", stable=CATS), PlannedModel(name="dogs", stable=DOGS)))


def darkness(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The contrary of brightness."""
    return brightness(inputs)[:, ::-1]


def broken_model(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    raise RuntimeError("ill")


def load(info: ModelInfo) -> Slot:
    return Slot(info, {"cats:1": brightness, "dogs:4": darkness}[info.name])


def ask(replica: Replica, path: str) -> Answer:
    return asyncio.run(call(replica.app, "POST", path, [body(png(255))]))


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/predict", ("light", CATS)),
        ("/models/cats/predict", ("light", CATS)),
        ("/models/dogs/predict", ("dark", DOGS)),
    ],
)
def test_a_request_chooses_its_model_by_its_path(path: str, told: tuple[str, ModelInfo]) -> None:
    answer = ask(Replica(PLAN, load, ServingSpec(), "r1"), path).json
    label, info = told
    assert (answer["label"], answer["model"], answer["digest"]) == (label, info.name, info.digest)


def test_an_unknown_model_is_told_with_those_that_there_are() -> None:
    answer = ask(Replica(PLAN, load, ServingSpec(), "r1"), "/models/eels/predict")
    assert (answer.status, answer.json["code"]) == (404, "unknown_model")
    assert "'eels' is not served here; there are: cats, dogs" in answer.json["detail"]


def test_what_is_refused_before_the_choice_costs_no_look_for_a_model() -> None:
    replica = Replica(PLAN, load, ServingSpec(), "r1")
    replica.drain()
    assert ask(replica, "/models/eels/predict").json["code"] == "draining"


def test_lanes_are_looked_up_by_name_and_version() -> None:
    models = Replica(PLAN, load, ServingSpec(), "r1").models
    assert models.lane().info == models.lane("cats", "1").info == models.lane("cats", CATS.digest).info == CATS
    assert models.lane("dogs", "4").info == DOGS
    assert tuple(models.infos) == (CATS, DOGS)
    with pytest.raises(Refusal, match=r"version '1' of 'dogs' is not served here; there are: 4") as caught:
        models.lane("dogs", "1")
    assert caught.value.code == "unknown_model"


def test_a_model_that_fails_opens_its_own_breaker_alone() -> None:
    def load(info: ModelInfo) -> Slot:
        return Slot(info, broken_model if info == DOGS else brightness)

    replica = Replica(PLAN, load, ServingSpec(breaker=BreakerSpec(min_requests=1)), "r1")
    answers = [ask(replica, "/models/dogs/predict") for _ in range(2)]
    assert [answer.json["code"] for answer in answers] == ["prediction_failed", "breaker_open"]
    assert ask(replica, "/predict").status == 200


def test_cached_replies_are_those_of_the_version() -> None:
    replica = Replica(PLAN, load, ServingSpec(cache=CacheSpec(max_bytes=100_000)), "r1")
    for path, label in (("/models/cats/predict", "light"), ("/models/dogs/predict", "dark")) * 2:
        answer = ask(replica, path)
        assert answer.json["label"] == label
    assert answer.headers["cache-status"] == "dlhpc; hit"


def moved(info: ModelInfo) -> Plan:
    """The next plan of a server of CATS alone."""
    return plan_of(CATS).moved(Place("cats", "stable"), info)


NEWER = info_of("cats:2", "d")


def any_of(info: ModelInfo) -> Slot:
    return Slot(info, darkness if info == NEWER else brightness)


def test_a_version_is_prepared_beside_the_other_and_takes_its_place_at_once() -> None:
    async def scenario() -> None:
        replica = Replica(plan_of(CATS), any_of, ServingSpec(), "r1")
        assert (await replica.prepare(moved(NEWER))).fault is None
        assert (await call(replica.app, parts=[body(png(255))])).json["label"] == "light"
        replica.models.commit(moved(NEWER))
        answer = (await call(replica.app, parts=[body(png(255))])).json
        assert (answer["label"], answer["model"], answer["digest"]) == ("dark", NEWER.name, NEWER.digest)
        assert (replica.snapshot().epoch, replica.snapshot().models) == (2, (NEWER,))

    asyncio.run(scenario())


def test_what_is_in_flight_is_answered_by_the_version_that_it_came_to() -> None:
    has_begun, is_free = threading.Event(), threading.Event()

    def held(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        has_begun.set()
        assert is_free.wait(60)
        return brightness(inputs)

    async def scenario() -> None:
        replica = Replica(
            plan_of(CATS), lambda info: Slot(info, held if info == CATS else darkness), ServingSpec(), "r1"
        )
        old = replica.models.lane()
        first = asyncio.create_task(call(replica.app, parts=[body(png(255))]))
        await asyncio.to_thread(has_begun.wait, 60)
        await replica.prepare(moved(NEWER))
        replica.models.commit(moved(NEWER))
        assert (await call(replica.app, parts=[body(png(255))])).json["digest"] == NEWER.digest
        assert old.in_flight == 1
        assert CATS.digest in exposition([("r1", list(replica.snapshot().families))], is_ready=True).decode()
        is_free.set()
        answer = (await first).json
        assert (answer["label"], answer["digest"]) == ("light", CATS.digest)
        assert CATS.digest not in exposition([("r1", list(replica.snapshot().families))], is_ready=True).decode()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("error", "told"),
    [(IntegrityError("weights: damaged"), "cats:2: weights: damaged"), (ValueError("odd"), "cats:2: ValueError: odd")],
)
def test_what_cannot_be_loaded_is_told_and_the_old_answers_on(error: Exception, told: str) -> None:
    def load(info: ModelInfo) -> Slot:
        if info == NEWER:
            raise error
        return Slot(info, brightness)

    async def scenario() -> None:
        replica = Replica(plan_of(CATS), load, ServingSpec(), "r1")
        assert await replica.prepare(moved(NEWER)) == Prepared("r1", told)
        with pytest.raises(ServingError, match=r"plan 2 was not prepared: cats:2 is not loaded"):
            replica.models.commit(moved(NEWER))
        assert (await call(replica.app, parts=[body()])).json["digest"] == CATS.digest
        assert replica.snapshot().epoch == 1

    asyncio.run(scenario())


def test_versions_are_loaded_once_however_often_they_are_prepared_and_let_go_when_the_plan_is_given_up() -> None:
    loaded: list[str] = []

    def load(info: ModelInfo) -> Slot:
        loaded.append(info.name)
        return Slot(info, brightness)

    async def scenario() -> None:
        replica = Replica(plan_of(CATS), load, ServingSpec(), "r1")
        await asyncio.gather(*(replica.prepare(moved(NEWER)) for _ in range(3)))
        assert loaded == ["cats:1", "cats:2"]
        await replica.prepare(plan_of(CATS))
        with pytest.raises(ServingError):
            replica.models.commit(moved(NEWER))
        await replica.prepare(moved(NEWER))
        assert loaded == ["cats:1", "cats:2", "cats:2"]
        replica.models.commit(moved(NEWER))
        replica.models.commit(plan_of(CATS))  # late, from before
        assert replica.snapshot().epoch == 2

    asyncio.run(scenario())
