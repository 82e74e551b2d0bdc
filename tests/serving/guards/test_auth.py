"""Authentication: who lacks a key, a right one or its scope is told so, and nothing else happens."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dlhpc.serving.api_keys import KeyFile, add_key, new_key
from dlhpc.serving.exchange import Guard, Refusal, Reply, Request
from dlhpc.serving.exporter import exporter_app
from dlhpc.serving.guards.auth import authenticate
from dlhpc.serving.health import Snapshot, health
from dlhpc.serving.replica import Replica
from dlhpc.spec.rates import RateLimitsSpec, RateSpec
from dlhpc.spec.serving import AuthSpec, ServingSpec
from dlhpc.spec.wire import HealthReply
from tests.serving.asgi import SLOT, Answer, body, call, receiving, replica_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SLOW = RateSpec(per_second=0.001, burst=1)


class Holders:
    """A file with a key for each purpose, and the keys."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.predict = self._new("predict", "predict")
        self.metrics = self._new("metrics", "metrics")
        self.slow = self._new("slow", "predict", rate=SLOW)
        self.expired = self._new("expired", "predict", expires=NOW)

    def _new(self, name: str, scope: str, **options: object) -> str:
        text, key = new_key(name, [scope], NOW - timedelta(days=1), **options)  # type: ignore[list-item, arg-type]
        add_key(self.path, key)
        return text


@pytest.fixture
def holders(tmp_path: Path) -> Holders:
    return Holders(tmp_path / "keys.json")


async def answer(request: Request) -> Reply:
    return Reply(200, request.key.name.encode() if request.key is not None else b"nobody")


def ask(holders: Holders, *headers: tuple[bytes, bytes], is_open: bool = False) -> tuple[Reply | Refusal, list[str]]:
    """What a request with these headers comes to, and what was counted."""
    seen: list[str] = []
    guard: Guard = authenticate(
        KeyFile(holders.path, 0.0), "predict", seen.append, is_open=is_open, now=lambda: 0.0, date=lambda: NOW
    )
    try:
        reply = asyncio.run(guard(answer)(Request("POST", "/predict", headers, receiving([]), "id")))
    except Refusal as refusal:
        return refusal, seen
    return reply, seen


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + key.encode()


def test_a_right_key_names_its_holder_in_either_header(holders: Holders) -> None:
    plain = (b"x-api-key", holders.predict.encode())
    for header in (bearer(holders.predict), (b"authorization", b"bearer  " + holders.predict.encode()), plain):
        reply, seen = ask(holders, header)
        assert isinstance(reply, Reply)
        assert (reply.body, seen) == (b"predict", [])


def test_without_a_key_the_client_is_told_how_to_send_one(holders: Holders) -> None:
    refusal, seen = ask(holders)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, seen) == ("unauthenticated", ["missing"])
    assert (b"www-authenticate", b'Bearer realm="dlhpc"') in refusal.headers
    assert "Authorization: Bearer" in refusal.detail


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("value", [b"Bearer nonsense", b"Basic dXNlcjpwYXNz", b"Bearer", b"", b"\xff\xfe"])
def test_a_wrong_key_is_refused_even_where_none_is_needed(holders: Holders, value: bytes, is_open: bool) -> None:
    refusal, seen = ask(holders, (b"authorization", value), is_open=is_open)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, seen) == ("unauthenticated", ["wrong"])
    assert (b"www-authenticate", b'Bearer realm="dlhpc", error="invalid_token"') in refusal.headers


def test_two_keys_are_one_too_many(holders: Holders) -> None:
    refusal, _ = ask(holders, bearer(holders.predict), (b"x-api-key", holders.metrics.encode()))
    assert isinstance(refusal, Refusal)
    assert "2 keys came" in refusal.detail


def test_an_expired_key_is_told_so(holders: Holders) -> None:
    refusal, seen = ask(holders, bearer(holders.expired))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, seen) == ("unauthenticated", ["expired"])
    assert "expired" in refusal.detail


def test_a_key_without_the_scope_is_forbidden_and_told_which(holders: Holders) -> None:
    refusal, seen = ask(holders, bearer(holders.metrics))
    assert isinstance(refusal, Refusal)
    assert (refusal.code, seen) == ("forbidden", ["scope"])
    challenge = b'Bearer realm="dlhpc", error="insufficient_scope", scope="predict"'
    assert (b"www-authenticate", challenge) in refusal.headers


def test_where_no_key_is_needed_one_names_its_holder_all_the_same(holders: Holders) -> None:
    for headers, name in (((), b"nobody"), ((bearer(holders.metrics),), b"metrics")):
        reply, _ = ask(holders, *headers, is_open=True)
        assert isinstance(reply, Reply)
        assert reply.body == name


def asked(replica: Replica, *keys: str | None) -> list[Answer]:
    """A replica's answers to predictions with these keys."""

    async def scenario() -> list[Answer]:
        return [
            await call(replica.app, parts=[body()], headers=[] if key is None else [("x-api-key", key)]) for key in keys
        ]

    return asyncio.run(scenario())


def test_a_replica_asks_for_a_key_and_health_does_not(holders: Holders) -> None:
    replica = replica_of(SLOT, ServingSpec(auth=AuthSpec(keys=holders.path)), "r1")
    answers = asked(replica, None, holders.metrics, holders.predict)
    assert [each.status for each in answers] == [401, 403, 200]
    assert answers[0].json["code"] == "unauthenticated"
    assert asyncio.run(call(replica.app, "GET", "/readyz")).status == 200
    counts = {
        sample.labels["reason"]: sample.value
        for family in replica.snapshot().families
        for sample in family.samples
        if sample.name == "dlhpc_auth_denied_total"
    }
    assert counts == {"missing": 1, "scope": 1}


def test_predictions_can_be_open_while_keys_exist(holders: Holders) -> None:
    replica = replica_of(SLOT, ServingSpec(auth=AuthSpec(keys=holders.path, open_predict=True)), "r1")
    assert [each.status for each in asked(replica, None, holders.predict, "x")] == [200, 200, 401]


def test_a_key_has_the_limit_of_its_own_and_others_of_the_same_address_have_theirs(holders: Holders) -> None:
    limits = RateLimitsSpec(per_client=RateSpec(per_second=0.001, burst=2))
    spec = ServingSpec(auth=AuthSpec(keys=holders.path, open_predict=True), rate_limits=limits)
    answers = asked(replica_of(SLOT, spec, "r1"), *[holders.slow] * 2, *[holders.predict] * 3, *[None] * 3)
    assert [each.status for each in answers] == [200, 429, 200, 200, 429, 200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"client";q=1;w=1000'


def test_metrics_of_the_supervisor_ask_for_their_scope(holders: Holders) -> None:
    async def look(with_metrics: bool) -> tuple[HealthReply, list[Snapshot]]:
        return health("serving", [], 0.0, ServingSpec()), []

    guard = authenticate(KeyFile(holders.path, 0.0), "metrics", lambda reason: None)
    app = exporter_app(look, [guard])

    async def scenario() -> list[int]:
        keys = [None, holders.predict, holders.metrics]
        headers = [[("x-api-key", key)] if key is not None else [] for key in keys]
        return [(await call(app, "GET", "/metrics", headers=each)).status for each in headers]

    assert asyncio.run(scenario()) == [401, 403, 200]
    assert asyncio.run(call(app, "GET", "/livez")).status == 200
