"""Which lane answers for which model, and that a lane has guards of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dlhpc.serving.exchange import Refusal
from dlhpc.serving.plan import Plan, PlannedModel
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import BreakerSpec, CacheSpec, ServingSpec
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
