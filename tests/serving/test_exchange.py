"""Bodies are read no further than they may be long; guards see a request in their order."""

from __future__ import annotations

import asyncio

import pytest

from dlhpc.serving.exchange import ClientGone, Guard, Handler, Refusal, Reply, Request, guarded
from dlhpc.spec.wire import FieldError, Problem
from tests.serving.asgi import receiving


def request(parts: list[bytes | None], headers: list[tuple[bytes, bytes]] | None = None) -> Request:
    return Request("POST", "/predict", headers or [], receiving(parts), "id")


@pytest.mark.parametrize("parts", [[b"abcdef"], [b"abc", b"def"], [b"", b"abcdef", b""]])
def test_a_body_is_read_whole_however_it_comes(parts: list[bytes | None]) -> None:
    asked = request(parts)
    assert not asked.is_whole
    assert asyncio.run(asked.body(6)) == b"abcdef"
    assert asked.is_whole


def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    asked = request([], [(b"content-length", b"7")])  # a receive would never return
    with pytest.raises(Refusal, match="7 bytes; at most 6") as caught:
        asyncio.run(asked.body(6))
    assert caught.value.code == "body_too_large"
    assert (b"connection", b"close") in caught.value.headers


@pytest.mark.parametrize("parts", [[b"abcdefg"], [b"abcdef", b"g", b"never read"]])
def test_an_undeclared_length_over_the_limit_is_refused_while_it_comes(parts: list[bytes | None]) -> None:
    with pytest.raises(Refusal, match="at most 6"):
        asyncio.run(request(parts).body(6))


@pytest.mark.parametrize("parts", [[None], [b"abc", None]])
def test_a_client_that_leaves_gets_no_reply(parts: list[bytes | None]) -> None:
    with pytest.raises(ClientGone):
        asyncio.run(request(parts).body(6))


def test_headers_are_found_by_lower_case_name() -> None:
    asked = request([], [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")])
    assert (asked.header(b"a"), asked.header(b"b"), asked.header(b"c")) == (b"1", b"2", None)


def test_a_refusal_is_a_problem_document() -> None:
    refusal = Refusal(
        "invalid_request", "because", headers=((b"x", b"y"),), errors=[FieldError(field="image", message="no")]
    )
    reply = refusal.reply("the-id")
    problem = Problem.model_validate_json(reply.body)
    assert (reply.status, reply.content_type, reply.headers) == (422, b"application/problem+json", ((b"x", b"y"),))
    assert (problem.status, problem.code, problem.type) == (422, "invalid_request", "urn:dlhpc:problem:invalid_request")
    assert (problem.detail, problem.request_id, problem.errors[0].field) == ("because", "the-id", "image")


def test_the_first_guard_sees_a_request_first() -> None:
    seen: list[str] = []

    def noting(name: str) -> Guard:
        def wrap(handler: Handler) -> Handler:
            async def note(asked: Request) -> Reply:
                seen.append(name)
                return await handler(asked)

            return note

        return wrap

    async def answer(asked: Request) -> Reply:
        seen.append("handler")
        return Reply(200, b"")

    asyncio.run(_ask(guarded(answer, [noting("first"), noting("second")])))
    assert seen == ["first", "second", "handler"]


async def _ask(handler: Handler) -> Reply:
    return await handler(request([b""]))
