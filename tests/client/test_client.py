"""The client against answers written out here (httpx's own transport stands in for the network)."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from dlhpc.client import Client, RequestError
from dlhpc.errors import NotFoundError, UsageError
from dlhpc.spec.wire import HealthReply, PredictReply
from tests.client.answers import REPLY, Clock, in_turn, ok, refusal


def client(answer: Callable[[httpx.Request], httpx.Response], clock: Clock | None = None) -> Client:
    clock = clock or Clock()
    return Client("http://server", transport=httpx.MockTransport(answer), sleep=clock.sleep, now=clock.now)


def test_sends_the_images_bytes_as_base64_and_types_the_reply() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return ok()

    assert client(answer).predict(b"\x89PNG") == REPLY
    assert seen[0].url == "http://server/predict"
    assert base64.b64decode(json.loads(seen[0].content)["image"]) == b"\x89PNG"


def test_retries_what_may_succeed_later_and_waits_at_least_retry_after() -> None:
    clock = Clock()
    away = httpx.ConnectError("refused")
    answer = in_turn(refusal("overloaded", "2"), away, refusal("unavailable"), ok())
    assert client(answer, clock).predict(b"x") == REPLY
    assert clock.slept[0] >= 2
    assert len(clock.slept) == 3


def test_gives_up_when_the_deadline_does_not_allow_another_wait() -> None:
    clock = Clock()
    with pytest.raises(RequestError, match="overloaded") as caught:
        client(in_turn(refusal("overloaded", "60")), clock).predict(b"x", deadline_s=5)
    assert clock.slept == []
    assert caught.value.problem is not None
    assert caught.value.problem.code == "overloaded"


def test_a_server_that_is_not_there_is_named_after_the_deadline() -> None:
    clock = Clock()

    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("connection refused")

    with pytest.raises(RequestError, match=r"http://server: cannot be reached: .*dlhpc serve"):
        client(answer, clock).predict(b"x", deadline_s=2)
    assert clock.slept
    assert clock.time <= 2


def test_a_silent_server_is_told_from_an_absent_one() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    with pytest.raises(RequestError, match="no answer within"):
        client(answer).predict(b"x", deadline_s=0.01)


@pytest.mark.parametrize("code", ["bad_image", "body_too_large", "deadline_exceeded", "prediction_failed"])
def test_final_refusals_are_not_repeated(code: str) -> None:
    with pytest.raises(RequestError, match=f"{code}: because"):
        client(in_turn(refusal(code))).predict(b"x")


def test_an_answer_of_another_program_is_shown() -> None:
    with pytest.raises(RequestError, match="404: <html>"):
        client(in_turn(httpx.Response(404, text="<html>"))).predict(b"x")
    with pytest.raises(RequestError, match="not a dlhpc server's answer: <html>"):
        client(in_turn(httpx.Response(200, text="<html>"))).predict(b"x")


def test_a_call_has_one_request_id_and_says_how_long_is_left() -> None:
    seen: list[httpx.Request] = []
    answers = in_turn(refusal("overloaded", "2"), httpx.ConnectError("refused"), ok())

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return answers(request)

    asking = client(answer)
    asking.predict(b"an image", deadline_s=10.0)
    assert len({request.headers["x-request-id"] for request in seen}) == 1
    left = [int(request.headers["x-deadline-ms"]) for request in seen]
    assert left[0] == 10_000
    assert 7_000 < left[1] <= 8_000
    assert left[2] < left[1]
    assert seen[2].extensions["timeout"]["read"] == pytest.approx(left[2] / 1000, abs=0.002)
    answers = in_turn(ok(), ok())
    asking.predict(b"another")
    asking.predict(b"another", request_id="mine")
    assert len({request.headers["x-request-id"] for request in seen}) == 3
    assert seen[-1].headers["x-request-id"] == "mine"


@pytest.mark.parametrize(
    ("of_client", "of_call", "path"),
    [
        (None, None, "/predict"),
        ("digits", None, "/models/digits/predict"),
        ("digits", "cats@production", "/models/cats@production/predict"),
        (None, "a/b?c", "/models/a%2Fb%3Fc/predict"),
    ],
)
def test_a_model_is_asked_by_its_name(of_client: str | None, of_call: str | None, path: str) -> None:
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return ok()

    asking = Client("http://server", model=of_client, transport=httpx.MockTransport(answer))
    asking.predict(b"x", model=of_call)
    list(asking.predict_many([b"x"], model=of_call))
    assert seen == [path.encode()] * 2


def test_many_are_read_no_further_ahead_than_twice_the_concurrency() -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x"

    replies = client(lambda request: ok()).predict_many(endless(), concurrency=2)
    for taken in range(1, 50):
        assert next(replies) == REPLY
        assert read <= taken + 4
    replies.close()


def test_many_are_asked_at_once_and_never_more_than_that() -> None:
    at_once = threading.Barrier(3, timeout=60)
    lock, now, most = threading.Lock(), 0, 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        at_once.wait()
        with lock:
            now -= 1
        return ok()

    assert list(client(answer).predict_many([b"x"] * 9, concurrency=3)) == [REPLY] * 9
    assert most == 3


def test_whoever_stops_early_asks_no_more() -> None:
    asked = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return ok()

    replies = client(answer).predict_many([b"x"] * 100, concurrency=1)
    next(replies)
    replies.close()
    assert asked <= 4


@pytest.mark.parametrize(("deadline_s", "concurrency"), [(0.0, 1), (float("nan"), 1), (1.0, 0)])
def test_impossible_numbers_are_refused(deadline_s: float, concurrency: int) -> None:
    with pytest.raises(UsageError, match=r"deadline_s is|concurrency is 0"):
        next(client(in_turn(ok())).predict_many([b"x"], concurrency=concurrency, deadline_s=deadline_s))


def test_what_was_lost_is_not_sent_again_where_that_is_not_wanted() -> None:
    transport = httpx.MockTransport(in_turn(refusal("overloaded"), httpx.ReadError("reset")))
    asking = Client("http://server", repeat_lost=False, transport=transport, sleep=lambda seconds: None)
    with pytest.raises(RequestError, match="the connection ended before the answer: reset") as caught:
        asking.predict(b"x")
    assert caught.value.tries == 2


def test_a_client_shows_whom_it_asks_and_never_its_key() -> None:
    asking = Client("https://server/", model="digits", api_key="the-key")
    assert repr(asking) == "Client('https://server', model='digits', deadline_s=30)"


def test_many_keep_their_order_and_their_errors(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        image = base64.b64decode(json.loads(request.content)["image"])
        if image == b"bad":
            return refusal("bad_image")
        return httpx.Response(200, content=REPLY.model_copy(update={"label": image.decode()}).model_dump_json())

    replies = list(client(answer).predict_many([b"1", b"bad", tmp_path / "missing", b"4"], concurrency=3))
    assert isinstance(replies[0], PredictReply)
    assert isinstance(replies[3], PredictReply)
    assert (replies[0].label, replies[3].label) == ("1", "4")
    assert isinstance(replies[1], RequestError)
    assert isinstance(replies[2], NotFoundError)


def test_health_is_read_also_from_a_server_that_is_not_ready() -> None:
    health = HealthReply(status="draining", replicas=1, in_flight=0, uptime_s=1.0, models=())
    assert client(in_turn(httpx.Response(503, content=health.model_dump_json()))).health() == health


def test_readiness() -> None:
    with client(in_turn(httpx.Response(200), httpx.Response(503), httpx.ConnectError("refused"))) as asking:
        assert [asking.is_ready() for _ in range(3)] == [True, False, False]


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match="not a URL like"):
        Client("http://[::1")


def test_the_api_key_goes_with_every_request() -> None:
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, content=REPLY.model_dump_json(by_alias=True))

    transport = httpx.MockTransport(answer)
    Client("http://server", api_key="the-key", transport=transport).predict(b"an image")
    Client("http://server", transport=transport).predict(b"an image")
    assert seen == ["Bearer the-key", None]
    with pytest.raises(RequestError, match="API key"):
        Client("http://server", api_key="schlüssel…")
