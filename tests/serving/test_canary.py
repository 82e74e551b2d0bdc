"""Which requests a canary answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dlhpc.serving.canary import position, takes_canary
from dlhpc.serving.exchange import Refusal, Request
from dlhpc.serving.plan import Canary, Plan, PlannedModel
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.api_key import ApiKey
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import body, brightness, call
from tests.serving.cluster import version


async def nothing() -> dict[str, Any]:
    return {"type": "http.request"}


def request(number: int = 0, header: str | None = None, key: str | None = None) -> Request:
    headers = [] if header is None else [(b"x-canary", header.encode())]
    made = Request("POST", "/predict", headers, nothing, f"request-{number}")
    if key is not None:
        made.key = ApiKey.model_construct(id=key)
    return made


def model(weight: float, **settings: Any) -> PlannedModel:
    canary = Canary(info=version(2), weight=weight, **settings)
    return PlannedModel(name="m", stable=version(1), canary=canary)


@pytest.mark.parametrize(
    ("weight", "least", "most"), [(0.0, 0, 0), (0.1, 1900, 2100), (0.5, 9800, 10200), (1.0, 20000, 20000)]
)
def test_its_share_of_requests_is_its_weight(weight: float, least: int, most: int) -> None:
    assert least <= sum(takes_canary(model(weight), request(number)) for number in range(20000)) <= most


def test_a_request_stays_with_its_version_and_a_larger_weight_takes_none_back() -> None:
    small = {number for number in range(500) if takes_canary(model(0.2), request(number))}
    large = {number for number in range(500) if takes_canary(model(0.4), request(number))}
    assert small < large
    assert small == {number for number in range(500) if takes_canary(model(0.2), request(number))}


def test_models_choose_independently() -> None:
    assert position("m", "r") != position("n", "r")
    assert all(0.0 <= position("m", str(number)) < 1.0 for number in range(100))


def test_by_key_a_client_stays_with_one_version() -> None:
    by_key = model(0.5, by="key")
    for key in ("a", "b", "c", "d"):
        assert len({takes_canary(by_key, request(number, key=key)) for number in range(50)}) == 1
    assert len({takes_canary(by_key, request(0, key=str(number))) for number in range(50)}) == 2
    assert len({takes_canary(by_key, request(number)) for number in range(50)}) == 2  # without keys by request


@pytest.mark.parametrize(("weight", "header", "takes"), [(0.0, "always", True), (1.0, "never", False)])
def test_a_header_decides(weight: float, header: str, takes: bool) -> None:
    assert takes_canary(model(weight), request(header=header)) is takes


def test_another_header_is_refused() -> None:
    with pytest.raises(Refusal, match="x-canary: 'yes' came, expected always or never") as caught:
        takes_canary(model(0.5), request(header="yes"))
    assert caught.value.code == "invalid_request"


def test_what_was_rolled_back_answers_nobody_but_who_asks_for_it() -> None:
    plan = Plan(epoch=1, models=(model(1.0),)).rolled_back("m", version(2).digest, "it failed")
    (rolled,) = plan.models
    assert plan.epoch == 2
    assert not any(takes_canary(rolled, request(number)) for number in range(50))
    assert takes_canary(rolled, request(header="always"))


def test_replies_name_the_version_that_answered() -> None:
    async def scenario() -> None:
        plan = Plan(epoch=1, models=(model(0.5),))
        replica = Replica(plan, lambda info: Slot(info, brightness), ServingSpec(), "r1")
        for number in range(20):
            headers = [("x-request-id", f"request-{number}")]
            told = (await call(replica.app, parts=[body()], headers=headers)).json["digest"]
            assert told == version(2 if takes_canary(plan.models[0], request(number)) else 1).digest

    asyncio.run(scenario())
