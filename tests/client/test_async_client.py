"""The client of event loops; what both clients share is tested where it lives."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from dlhpc.client import AsyncClient, RequestError, UnreachableError
from dlhpc.client.async_client import INLINE_BYTES
from dlhpc.errors import NotFoundError, UsageError
from dlhpc.spec.wire import HealthReply, PredictReply
from tests.client.answers import REPLY, Clock, in_turn, ok, refusal

Answer = Callable[[httpx.Request], httpx.Response | Coroutine[Any, Any, httpx.Response]]


def client(answer: Answer, clock: Clock | None = None, **options: Any) -> AsyncClient:
    clock = clock or Clock()
    transport = httpx.MockTransport(answer)
    return AsyncClient("http://server", transport=transport, sleep=clock.async_sleep, now=clock.now, **options)


def test_it_asks_again_until_the_deadline_with_one_id() -> None:
    clock, seen = Clock(), []
    answers = in_turn(refusal("overloaded", "2"), httpx.ConnectError("away"), ok())

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answers(request)

    async def ask() -> PredictReply:
        async with client(answer, clock, model="digits", api_key="key") as asking:
            return await asking.predict(b"x")

    assert asyncio.run(ask()) == REPLY
    assert clock.slept[0] >= 2
    assert {request.url.path for request in seen} == {"/models/digits/predict"}
    assert {request.headers["authorization"] for request in seen} == {"Bearer key"}
    assert len({request.headers["x-request-id"] for request in seen}) == 1


def test_refusals_and_absence_are_errors() -> None:
    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(RequestError, match="bad_image: because"):
        asyncio.run(client(in_turn(refusal("bad_image"))).predict(b"x"))
    with pytest.raises(UnreachableError, match="dlhpc serve"):
        asyncio.run(client(away).predict(b"x", deadline_s=1))
    with pytest.raises(NotFoundError, match="missing"):
        asyncio.run(client(in_turn()).predict("missing.png"))


def test_a_server_that_drips_is_not_waited_for_beyond_the_deadline() -> None:
    async def silent(request: httpx.Request) -> httpx.Response:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(RequestError, match=r"no answer within 0\.02 s"):
        asyncio.run(client(silent).predict(b"x", deadline_s=0.02))


def test_files_and_pixels_are_read_away_from_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"file")
    threads: dict[str, bool] = {}

    def body(image: Any) -> bytes:
        threads[type(image).__name__ + str(len(str(image)) > INLINE_BYTES)] = threading.current_thread() is main
        return b"{}"

    main = threading.current_thread()
    monkeypatch.setattr("dlhpc.client.async_client.predict_body", body)

    async def ask() -> None:
        asking = client(lambda request: ok())
        for image in (tmp_path / "a.png", np.zeros((2, 2), np.uint8), b"small", b"x" * (INLINE_BYTES + 1)):
            await asking.predict(image)

    asyncio.run(ask())
    assert threads == {"PosixPathFalse": False, "ndarrayFalse": False, "bytesFalse": True, "bytesTrue": False}


def echo(request: httpx.Request) -> httpx.Response:
    image = base64.b64decode(json.loads(request.content)["image"]).decode()
    if image == "bad":
        return refusal("bad_image")
    return httpx.Response(200, content=REPLY.model_copy(update={"label": image}).model_dump_json(by_alias=True))


def labels(replies: list[Any]) -> list[str]:
    return [reply.label if isinstance(reply, PredictReply) else type(reply).__name__ for reply in replies]


@pytest.mark.parametrize("kind", ["list", "generator", "async"])
def test_many_keep_their_order_and_their_errors(kind: str) -> None:
    images = [b"1", b"bad", "missing.png", b"4"]

    async def slowly() -> AsyncIterator[Any]:
        for image in images:
            await asyncio.sleep(0)
            yield image

    async def ask() -> list[Any]:
        given: Any = {"list": images, "generator": (each for each in images), "async": slowly()}[kind]
        return [reply async for reply in client(echo).predict_many(given, concurrency=2)]

    assert labels(asyncio.run(ask())) == ["1", "RequestError", "NotFoundError", "4"]


def test_many_are_read_no_further_ahead_than_twice_the_concurrency_and_asked_no_more_at_once() -> None:
    read = now = most = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x"

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return ok()

    async def ask() -> None:
        taken = 0
        async with aclosing(client(answer).predict_many(endless(), concurrency=3)) as replies:
            async for reply in replies:
                taken += 1
                assert reply == REPLY
                assert read <= taken + 6
                if taken == 50:
                    return

    asyncio.run(ask())
    assert most == 3


def test_a_reply_is_given_as_soon_as_it_is_known_although_the_next_image_is_awaited() -> None:
    async def ask() -> list[str]:
        more = asyncio.Event()

        async def images() -> AsyncIterator[bytes]:
            yield b"first"
            await more.wait()
            yield b"second"

        got = []
        async for reply in client(echo).predict_many(images()):
            got.append(reply)
            more.set()
        return labels(got)

    assert asyncio.run(ask()) == ["first", "second"]


def test_an_iterator_that_blocks_does_not_hold_the_loop_up() -> None:
    turned = threading.Event()

    def images() -> Iterator[bytes]:
        assert turned.wait(60)  # which only the loop can set
        yield b"x"

    async def ask() -> list[Any]:
        asyncio.get_running_loop().call_soon(turned.set)
        return [reply async for reply in client(lambda request: ok()).predict_many(images())]

    assert asyncio.run(ask()) == [REPLY]


def test_what_the_images_raise_comes_after_the_replies_before_it() -> None:
    def images() -> Iterator[bytes]:
        yield b"1"
        raise OSError("the disk is gone")

    async def ask(got: list[Any]) -> None:
        async for reply in client(echo).predict_many(images()):
            got.append(reply)

    got: list[Any] = []
    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(ask(got))
    assert labels(got) == ["1"]


def test_closing_cancels_what_is_in_flight() -> None:
    cancelled: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        if echo(request).json()["label"] == "quick":
            return ok()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("yes")
            raise
        raise AssertionError

    async def ask() -> None:
        async with aclosing(client(answer).predict_many([b"quick", b"slow", b"slow"], concurrency=3)) as replies:
            async for reply in replies:
                assert reply == REPLY
                await asyncio.sleep(0.01)  # the others are on their way
                break
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(ask())
    assert cancelled == ["yes", "yes"]


def test_impossible_concurrency_is_refused() -> None:
    async def ask() -> None:
        async for _ in client(in_turn()).predict_many([b"x"], concurrency=0):
            raise AssertionError

    with pytest.raises(UsageError, match="concurrency is 0"):
        asyncio.run(ask())


def test_health_and_readiness() -> None:
    health = HealthReply(status="draining", replicas=1, in_flight=0, uptime_s=1.0, models=())
    answers = in_turn(
        httpx.Response(503, content=health.model_dump_json()),
        httpx.Response(200),
        httpx.ConnectError("refused"),
        httpx.ConnectError("refused"),
    )

    async def ask() -> None:
        asking = client(answers)
        assert await asking.health() == health
        assert [await asking.is_ready(), await asking.is_ready()] == [True, False]
        with pytest.raises(UnreachableError):
            await asking.health()

    asyncio.run(ask())


def test_a_client_shows_whom_it_asks() -> None:
    assert repr(AsyncClient("http://server/", deadline_s=2.5)) == "AsyncClient('http://server', deadline_s=2.5)"
    assert AsyncClient("http://server/").url == "http://server"
