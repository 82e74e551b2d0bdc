"""The ASGI application: routes, ids, faults and what is counted."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from dlhpc.serving.app import App
from dlhpc.serving.exchange import ClientGone, Refusal, Reply, Request
from tests.serving.asgi import Message, call, receiving


async def echo(request: Request) -> Reply:
    return Reply(200, request.id.encode(), b"text/plain", ((b"x-more", b"1"),))


async def refuse(request: Request) -> Reply:
    raise Refusal("overloaded", "too much", headers=((b"retry-after", b"1"),))


async def break_down(request: Request) -> Reply:
    raise RuntimeError("a secret")


async def exhaust(request: Request) -> Reply:
    raise MemoryError


async def leave(request: Request) -> Reply:
    raise ClientGone


async def hang(request: Request) -> Reply:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def name_parameters(request: Request) -> Reply:
    return Reply(200, " ".join(f"{name}={value}" for name, value in request.parameters.items()).encode())


class Counted:
    """An application, and what it was told to count."""

    def __init__(self, **options: Any) -> None:
        self.seen: list[tuple[str, int]] = []
        routes = {
            "/echo": {"GET": echo, "POST": echo},
            "/refuse": {"POST": refuse},
            "/break": {"POST": break_down},
            "/exhaust": {"POST": exhaust},
            "/leave": {"POST": leave},
            "/hang": {"POST": hang},
            "/of/{one}/and/{two}": {"GET": name_parameters},
        }
        self.app = App(routes, lambda route, status, seconds: self.seen.append((route, status)), **options)


def test_a_handlers_reply_is_sent_with_its_length_and_the_requests_id() -> None:
    counted = Counted()
    answer = asyncio.run(call(counted.app, "POST", "/echo", headers=[("x-request-id", "mine-1")]))
    assert (answer.status, answer.content) == (200, b"mine-1")
    assert answer.headers == {
        "content-type": "text/plain",
        "content-length": "6",
        "x-more": "1",
        "x-request-id": "mine-1",
    }
    assert counted.seen == [("/echo", 200)]


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "line\nbreak", "\x7f"])
def test_an_insane_request_id_is_replaced(given: str) -> None:
    answer = asyncio.run(call(Counted().app, "POST", "/echo", headers=[("x-request-id", given)]))
    assert len(answer.content) == 32
    assert answer.headers["x-request-id"] == answer.content.decode()


def test_requests_without_an_id_get_different_ones() -> None:
    app = Counted().app
    assert asyncio.run(call(app, "GET", "/echo")).content != asyncio.run(call(app, "GET", "/echo")).content


async def name_peer(request: Request) -> Reply:
    return Reply(200, request.peer.encode())


@pytest.mark.parametrize(("behind_proxy", "peer"), [(False, "198.51.100.7"), (True, "192.0.2.1")])
def test_only_behind_our_proxy_is_the_peer_who_the_proxy_says(behind_proxy: bool, peer: str) -> None:
    app = App({"/": {"GET": name_peer}}, lambda route, status, seconds: None, behind_proxy=behind_proxy)
    assert asyncio.run(call(app, "GET", "/", headers=[("x-dlhpc-peer", "192.0.2.1")])).content == peer.encode()


def test_head_is_get_without_a_body() -> None:
    answer = asyncio.run(call(Counted().app, "HEAD", "/echo", headers=[("x-request-id", "abc")]))
    assert (answer.status, answer.content, answer.headers["content-length"]) == (200, b"", "3")


@pytest.mark.parametrize("path", ["/", "/ECHO", "/echo/", "//echo", "/echo/../echo", "/echo%2f", "/echo%00", "/écho"])
def test_other_paths_are_not_found_and_counted_together(path: str) -> None:
    counted = Counted()
    answer = asyncio.run(call(counted.app, "GET", path))
    assert (answer.status, answer.json["code"]) == (404, "not_found")
    assert "/echo" in answer.json["detail"]
    assert counted.seen == [("", 404)]


def test_a_handler_is_given_the_parameters_of_its_path_and_counted_by_its_pattern() -> None:
    counted = Counted()
    assert asyncio.run(call(counted.app, "GET", "/of/x/and/%79")).content == b"one=x two=y"
    assert counted.seen == [("/of/{one}/and/{two}", 200)]


def test_of_a_long_unknown_path_the_beginning_is_told() -> None:
    answer = asyncio.run(call(Counted().app, "GET", "/" + "x" * 60_000))
    assert answer.status == 404
    assert len(answer.content) < 1000


def test_other_methods_are_told_which_are_allowed() -> None:
    answer = asyncio.run(call(Counted().app, "DELETE", "/echo"))
    assert (answer.status, answer.json["code"], answer.headers["allow"]) == (405, "method_not_allowed", "GET, POST")


def test_a_refusal_becomes_a_problem_with_its_headers() -> None:
    counted = Counted()
    answer = asyncio.run(call(counted.app, "POST", "/refuse"))
    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")
    assert answer.headers["content-type"] == "application/problem+json"
    assert counted.seen == [("/refuse", 503)]


def test_a_fault_is_logged_with_the_requests_id_and_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        answer = asyncio.run(call(Counted().app, "POST", "/break", headers=[("x-request-id", "the-one")]))
    assert (answer.status, answer.json["code"], answer.json["request_id"]) == (500, "internal_error", "the-one")
    assert "secret" not in answer.content.decode()
    assert "the-one" in caplog.text
    assert "a secret" in caplog.text


def test_without_memory_it_says_when_to_come_again() -> None:
    answer = asyncio.run(call(Counted().app, "POST", "/exhaust"))
    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")


def test_a_client_that_left_is_counted_and_sent_nothing() -> None:
    counted = Counted()
    assert asyncio.run(call(counted.app, "POST", "/leave")).messages == []
    assert counted.seen == [("/leave", 499)]


def test_a_call_that_the_server_cancels_is_counted_as_a_client_that_left() -> None:
    counted = Counted()

    async def cancelled() -> None:
        task = asyncio.create_task(call(counted.app, "POST", "/hang"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    assert counted.seen == [("/hang", 499)]


def test_the_lifespan_is_acknowledged() -> None:
    sent: list[Message] = []
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Counted().app({"type": "lifespan"}, receive, send))
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_body_is_not_read_for_a_request_that_is_not_served() -> None:
    receive = receiving([])  # would wait for ever
    assert asyncio.run(call(Counted().app, "POST", "/nowhere", receive=receive)).status == 404
