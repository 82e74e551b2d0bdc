"""The cache gives what was computed to whom it belongs, once, and never an error or another's request id."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.serving.api_keys import add_key, new_key
from dlhpc.serving.exchange import Handler, Refusal, Reply, Request, id_and_end
from dlhpc.serving.guards import cache
from dlhpc.serving.guards.cache import REPLY_OVERHEAD, Replies, cached, reply_key
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import AuthSpec, CacheSpec, ServingSpec
from tests.serving.asgi import INFO, SLOT, Answer, body, brightness, call, png, receiving, replica_of
from tests.serving.test_replica import Held, settle

EXECUTOR = ThreadPoolExecutor(1)


def request(content: bytes = b"x", request_id: str = "r", headers: dict[str, str] | None = None) -> Request:
    raw = [(key.encode(), value.encode()) for key, value in (headers or {}).items()]
    return Request("POST", "/predict", raw, receiving([content]), request_id)


def guard(replies: Replies, seen: list[str], handler: Handler, **options: bool) -> Handler:
    return cached(replies, "sha256:1", lambda asked: asked.body(10**7), EXECUTOR, seen.append, **options)(handler)


class Model:
    """Answers with what it was asked and the request's id; or as it is told to."""

    def __init__(self) -> None:
        self.calls = 0
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()
        self.answer: Callable[[], Reply] | None = None

    async def __call__(self, asked: Request) -> Reply:
        self.calls += 1
        self.begun.set()
        await self.go.wait()
        if self.answer is not None:
            return self.answer()
        head = b'{"you said":' + json.dumps((await asked.body(10**7)).decode()).encode() + b',"request_id":'
        return Reply(200, head + id_and_end(asked.id), id_at=len(head))


def refuse(code: str) -> Callable[[], Reply]:
    def answer() -> Reply:
        raise Refusal(code, "no")

    return answer


def test_the_second_time_nothing_is_computed_and_the_reply_has_its_own_id() -> None:
    model, seen = Model(), list[str]()
    handler = guard(Replies(10**6), seen, model)

    async def scenario() -> list[Reply]:
        return [await handler(request(b"a", "one")), await handler(request(b"a", 't"wo')), await handler(request(b"b"))]

    first, second, other = asyncio.run(scenario())
    assert json.loads(first.body) == {"you said": "a", "request_id": "one"}
    assert json.loads(second.body) == {"you said": "a", "request_id": 't"wo'}
    assert json.loads(other.body)["you said"] == "b"
    assert (model.calls, seen) == (2, ["miss", "hit", "miss"])
    assert [reply.headers[-1] for reply in (first, second)] == [
        (b"cache-status", b"dlhpc; fwd=miss; stored"),
        (b"cache-status", b"dlhpc; hit"),
    ]


def test_an_id_that_looks_like_the_answer_changes_nothing_of_it() -> None:
    model = Model()
    handler = guard(Replies(10**6), [], model)

    async def scenario() -> Reply:
        await handler(request(b"a", "a"))  # its id is the very text that the answer has
        return await handler(request(b"a", "b"))

    assert json.loads(asyncio.run(scenario()).body) == {"you said": "a", "request_id": "b"}


@pytest.mark.parametrize("code", ["prediction_failed", "bad_image", "breaker_open", "overloaded", "deadline_exceeded"])
def test_errors_are_never_kept(code: str) -> None:
    model = Model()
    replies = Replies(10**6)
    handler = guard(replies, [], model)

    async def scenario() -> Reply:
        model.answer = refuse(code)
        with pytest.raises(Refusal):
            await handler(request())
        model.answer = None
        return await handler(request())

    assert asyncio.run(scenario()).status == 200
    assert model.calls == 2


def test_a_reply_with_failures_is_not_kept() -> None:
    assert not Replies(10**6).keep(b"k", Reply(200, b"{}", has_failures=True))
    assert Replies(10**6).keep(b"k", Reply(200, b"{}"))
    reply = Reply(200, b'{"request_id":"a"}', id_at=14, has_failures=True)
    assert reply.plus(()).has_failures
    assert reply.for_request("b").has_failures


def test_a_reply_that_is_no_success_is_not_kept() -> None:
    replies = Replies(10**6)
    assert not replies.keep(b"k", Reply(503, b""))
    assert not Replies(REPLY_OVERHEAD).keep(b"k", Reply(200, b"x"))
    assert len(replies) == 0


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=1), st.integers(0, 3000)), max_size=60))
def test_it_is_never_larger_than_it_may_be(stored: list[tuple[bytes, int]]) -> None:
    evicted: list[None] = []
    replies = Replies(5000, lambda: evicted.append(None))
    distinct = set()
    for key, size in stored:
        if replies.keep(key, Reply(200, bytes(size))):
            distinct.add(key)
        held = [replies[each] for each in list(replies)]
        assert sum(len(reply.body) + REPLY_OVERHEAD for reply in held) == replies.currsize <= 5000
    assert len(evicted) >= len(distinct) - len(replies)


def test_the_least_recently_asked_goes_first() -> None:
    replies = Replies(2 * REPLY_OVERHEAD)
    replies.keep(b"a", Reply(200, b""))
    replies.keep(b"b", Reply(200, b""))
    assert replies.get(b"a") is not None
    replies.keep(b"c", Reply(200, b""))
    assert sorted(replies) == [b"a", b"c"]


def test_equal_requests_at_the_same_time_are_computed_once() -> None:
    model, seen = Model(), list[str]()
    handler = guard(Replies(10**6), seen, model)

    async def scenario() -> list[Reply]:
        model.go.clear()
        tasks = [asyncio.create_task(handler(request(b"a", f"r{number}"))) for number in range(5)]
        await settle()
        model.go.set()
        return await asyncio.gather(*tasks)

    replies = asyncio.run(scenario())
    assert [json.loads(reply.body)["request_id"] for reply in replies] == [f"r{number}" for number in range(5)]
    assert (model.calls, seen) == (1, ["miss"] + ["joined"] * 4)
    assert replies[1].headers[-1] == (b"cache-status", b"dlhpc; fwd=miss; collapsed")


def test_when_the_first_leaves_another_takes_its_place() -> None:
    model, seen = Model(), list[str]()
    handler = guard(Replies(10**6), seen, model)

    async def scenario() -> list[Reply]:
        model.go.clear()
        first, *others = [asyncio.create_task(handler(request(b"a", f"r{number}"))) for number in range(3)]
        await settle()
        first.cancel()
        await settle()
        model.go.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await asyncio.gather(*others)

    assert [json.loads(reply.body)["request_id"] for reply in asyncio.run(scenario())] == ["r1", "r2"]
    assert (model.calls, seen) == (2, ["miss", "joined"])


def test_who_waits_and_leaves_takes_nothing_from_the_others() -> None:
    model = Model()
    handler = guard(Replies(10**6), [], model)

    async def scenario() -> Reply:
        model.go.clear()
        first, second = [asyncio.create_task(handler(request(b"a", f"r{number}"))) for number in range(2)]
        await settle()
        second.cancel()
        await settle()
        assert second.cancelled()
        model.go.set()
        return await first

    assert asyncio.run(scenario()).status == 200
    assert model.calls == 1


@pytest.mark.parametrize(("code", "calls"), [("prediction_failed", 1), ("bad_image", 1), ("breaker_open", 3)])
def test_a_fault_of_the_input_is_everybodys_and_another_only_its_own(code: str, calls: int) -> None:
    model = Model()
    handler = guard(Replies(10**6), [], model)

    async def scenario() -> list[BaseException | Reply]:
        model.go.clear()
        model.answer = refuse(code)
        tasks = [asyncio.create_task(handler(request(b"a"))) for _ in range(3)]
        await settle()
        model.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    refusals = asyncio.run(scenario())
    assert [isinstance(each, Refusal) and each.code for each in refusals] == [code] * 3
    assert len({id(each) for each in refusals}) == 3  # each may be given headers of its own
    assert model.calls == calls


@pytest.mark.parametrize("control", ["no-cache", "No-Store, max-age=0"])
def test_a_client_can_decline_it(control: str) -> None:
    model, seen = Model(), list[str]()
    handler = guard(Replies(10**6), seen, model)

    async def scenario() -> Reply:
        await handler(request())
        return await handler(request(headers={"cache-control": control}))

    assert asyncio.run(scenario()).headers[-1] == (b"cache-status", b"dlhpc; fwd=request")
    assert (model.calls, seen) == (2, ["miss", "bypassed"])


def test_a_long_body_is_hashed_elsewhere_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "INLINE_HASH_BYTES", 3)
    model, seen = Model(), list[str]()
    handler = guard(Replies(10**6), seen, model)

    async def scenario() -> None:
        for content in (b"abcd", b"abcd", b"abce"):
            await handler(request(content))

    asyncio.run(scenario())
    assert seen == ["miss", "hit", "miss"]


def test_the_key_tells_versions_holders_and_types_apart() -> None:
    _, first = new_key("one", ["predict"], datetime.now(UTC))
    _, second = new_key("two", ["predict"], datetime.now(UTC))
    asked = [request(), request(headers={"content-type": "image/png"}), request(), request()]
    asked[2].key, asked[3].key = first, second
    assert len({reply_key(digest, each, b"x", is_shared=False) for digest in "ab" for each in asked}) == 8
    assert len({reply_key("a", each, b"x", is_shared=True) for each in asked}) == 2
    assert len({reply_key("a", asked[0], content, is_shared=False) for content in (b"", b"x", b"y")}) == 3


class Counting:
    """The model of SLOT, which counts its images."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        self.images += len(inputs)
        return brightness(inputs)


def asked_of(spec: ServingSpec, *requests: tuple[bytes, str]) -> tuple[Counting, list[Answer], Replica]:
    """A replica's answers to (image, key)."""
    model = Counting()
    replica = replica_of(Slot(INFO, model), spec, "r1")

    async def scenario() -> list[Answer]:
        return [
            await call(replica.app, parts=[body(image)], headers=[("x-api-key", key)] if key else [])
            for image, key in requests
        ]

    return model, asyncio.run(scenario()), replica


CACHE = CacheSpec(max_bytes=10**6)


def test_a_replica_answers_from_its_cache_and_counts() -> None:
    model, answers, replica = asked_of(ServingSpec(cache=CACHE), (png(), ""), (png(), ""), (png(10), ""))
    assert model.images == 2
    assert [answer.headers["cache-status"] for answer in answers] == [
        "dlhpc; fwd=miss; stored", "dlhpc; hit", "dlhpc; fwd=miss; stored",
    ]  # fmt: skip
    for answer in answers:
        assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert {**answers[0].json, "request_id": ""} == {**answers[1].json, "request_id": ""}
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in replica.snapshot().families
        for sample in family.samples
        if sample.name.startswith("dlhpc_cache")
    }
    size = values.pop(("dlhpc_cache_bytes",))
    assert values == {
        ("dlhpc_cache_requests_total", "hit"): 1,
        ("dlhpc_cache_requests_total", "miss"): 2,
        ("dlhpc_cache_replies",): 2,
        ("dlhpc_cache_evictions_total",): 0,
    }
    assert size > 2 * REPLY_OVERHEAD


def test_without_a_cache_everything_is_computed() -> None:
    model, answers, _ = asked_of(ServingSpec(), (png(), ""), (png(), ""))
    assert model.images == 2
    assert "cache-status" not in answers[1].headers


@pytest.mark.parametrize(("shared", "images"), [(False, 3), (True, 1)])
def test_holders_of_keys_share_only_when_told_to(tmp_path: Path, shared: bool, images: int) -> None:
    keys = []
    for name in ("one", "two"):
        text, kept = new_key(name, ["predict"], datetime.now(UTC))
        add_key(tmp_path / "keys.json", kept)
        keys.append(text)
    spec = ServingSpec(
        auth=AuthSpec(keys=tmp_path / "keys.json", open_predict=True), cache=CacheSpec(max_bytes=10**6, shared=shared)
    )
    model, _, _ = asked_of(spec, *[(png(), key) for key in (*keys, "", *keys, "")])
    assert model.images == images


def test_a_hit_needs_the_right_type_all_the_same() -> None:
    replica = replica_of(SLOT, ServingSpec(cache=CACHE), "r1")

    async def scenario() -> Answer:
        await call(replica.app, parts=[body()])
        return await call(replica.app, parts=[body()], headers=[("content-type", "text/plain")])

    assert asyncio.run(scenario()).status == 415


def test_equal_images_in_flight_share_one_pass() -> None:
    async def scenario() -> list[Answer]:
        model = Held()
        replica = replica_of(Slot(INFO, model), ServingSpec(cache=CACHE), "r1")
        tasks = [asyncio.create_task(call(replica.app, parts=[body()])) for _ in range(6)]
        await settle()
        model.is_free.set()
        answers = await asyncio.gather(*tasks)
        assert model.sizes == [1]
        return answers

    assert [answer.status for answer in asyncio.run(scenario())] == [200] * 6
