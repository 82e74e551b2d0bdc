"""The client against answers written out here (httpx's own transport stands in for the network)."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from dlhpc.client import Client, RequestError
from dlhpc.client.client import image_bytes
from dlhpc.errors import NotFoundError
from dlhpc.spec.wire import HealthReply, PredictReply, problem

REPLY = PredictReply(
    index=1, label="cat", probabilities={"dog": 0.25, "cat": 0.75}, model="m:1", digest="sha256:00", request_id="r"
)


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


def client(answer: Callable[[httpx.Request], httpx.Response], clock: Clock | None = None) -> Client:
    clock = clock or Clock()
    return Client("http://server", transport=httpx.MockTransport(answer), sleep=clock.sleep, now=clock.now)


def in_turn(*responses: httpx.Response | Exception) -> Callable[[httpx.Request], httpx.Response]:
    queue = list(responses)

    def answer(request: httpx.Request) -> httpx.Response:
        response = queue.pop(0)
        if isinstance(response, Exception):
            raise response
        return response

    return answer


def refusal(code: str, retry_after: str | None = None) -> httpx.Response:
    body = problem(code, "because", "r")
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return httpx.Response(body.status, content=body.model_dump_json(), headers=headers)


OK = httpx.Response(200, content=REPLY.model_dump_json(by_alias=True))


def test_sends_the_images_bytes_as_base64_and_types_the_reply() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return OK

    assert client(answer).predict(b"\x89PNG") == REPLY
    assert seen[0].url == "http://server/predict"
    assert base64.b64decode(json.loads(seen[0].content)["image"]) == b"\x89PNG"


def test_retries_what_may_succeed_later_and_waits_at_least_retry_after() -> None:
    clock = Clock()
    away = httpx.ConnectError("refused")
    answer = in_turn(refusal("overloaded", "2"), away, refusal("unavailable"), OK)
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


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_pixels_become_a_png_without_loss(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    back = np.asarray(Image.open(io.BytesIO(image_bytes(pixels))))
    assert np.array_equal(back.reshape(shape), pixels)


def test_a_pillow_image_and_a_file_are_images_too(tmp_path: Path) -> None:
    picture = Image.new("L", (3, 2), 7)
    picture.save(tmp_path / "a.png")
    assert np.asarray(Image.open(io.BytesIO(image_bytes(picture)))).tolist() == [[7] * 3] * 2
    assert image_bytes(str(tmp_path / "a.png")) == (tmp_path / "a.png").read_bytes()


def test_what_is_no_image_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="float64 came"):
        image_bytes(np.zeros((2, 2)))
    with pytest.raises(RequestError, match=r"\(2, 2, 7\) came"):
        image_bytes(np.zeros((2, 2, 7), np.uint8))
    with pytest.raises(NotFoundError, match=r"missing\.png"):
        image_bytes(tmp_path / "missing.png")


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


def test_the_server_is_told_how_long_the_client_waits() -> None:
    seen: list[str] = []
    answers = in_turn(refusal("overloaded", "2"), httpx.Response(200, content=REPLY.model_dump_json(by_alias=True)))

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["x-deadline-ms"])
        return answers(request)

    client(answer).predict(b"an image", deadline_s=10.0)
    assert seen[0] == "10000"
    assert 7000 < int(seen[1]) <= 8000
