"""Bodies are read no further than they may be long; guards see a request in their order."""

from __future__ import annotations

import asyncio
import json

import pytest

from dlhpc.serving.exchange import ClientGone, Guard, Handler, Refusal, Reply, Request, guarded, id_and_end
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


def test_a_header_that_means_one_thing_must_not_come_twice() -> None:
    asked = request([], [(b"a", b"1"), (b"b", b"2"), (b"b", b"2")])
    assert (asked.only(b"a"), asked.only(b"c")) == (b"1", None)
    with pytest.raises(Refusal, match="b came more than once") as caught:
        asked.only(b"b")
    assert caught.value.code == "invalid_request"


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


def test_a_body_is_read_once_and_given_again() -> None:
    async def scenario() -> list[bytes]:
        asked = request([b"ab", b"cd"])
        return [await asked.body(10), await asked.body(10)]

    assert asyncio.run(scenario()) == [b"abcd", b"abcd"]


@pytest.mark.parametrize("declared", [b"", b"-1", b"many", b"1e9"])
def test_a_length_that_is_no_number_is_left_to_the_server(declared: bytes) -> None:
    assert asyncio.run(request([b"abc"], [(b"content-length", declared)]).body(6)) == b"abc"


@pytest.mark.parametrize("request_id", ["x", 'a"b', "\\"])
def test_a_reply_can_be_given_to_another_request(request_id: str) -> None:
    reply = Reply(200, b'{"a":1,"request_id":' + id_and_end("first"), id_at=20)
    assert json.loads(reply.for_request(request_id).body) == {"a": 1, "request_id": request_id}
    plain = Reply(200, b"text")
    assert plain.for_request(request_id) is plain


def test_a_refusal_again_has_headers_of_its_own() -> None:
    refusal = Refusal("bad_image", "no", errors=[FieldError(field="image", message="no")], close=True)
    again = refusal.again()
    again.headers += ((b"a", b"b"),)
    assert (again.code, again.detail, again.errors, again.status) == ("bad_image", "no", refusal.errors, 422)
    assert again.headers[:-1] == refusal.headers
