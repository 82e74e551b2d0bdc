"""The load generator sends what it says, and tells what came back. Its times are looked at only for their order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from dlhpc.bench.load import Generator, Job, Load, _is_whole, job_of
from dlhpc.bench.requests import LAG, bodies
from tests.serving.http_server import serving

SIZE = (8, 8)
SECONDS = 0.3


class Server:
    """Remembers bodies and answers as it is told to."""

    def __init__(self, answer: Callable[[int], tuple[int, list[tuple[bytes, bytes]]]]) -> None:
        self.bodies: list[bytes] = []
        self.headers: dict[bytes, bytes] = {}
        self._answer = answer

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.bodies.append((await receive())["body"])
        self.headers = dict(scope["headers"])
        status, headers = self._answer(len(self.bodies))
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2"), *headers]})
        await send({"type": "http.response.body", "body": b"{}"})


def sent(server: Any, **job: Any) -> Load:
    with serving(server) as port:
        *words, load = Generator(Job(port=port, seconds=SECONDS, first=0, size=SIZE, **job)).run()
    assert words == ["begin", "end"]
    assert isinstance(load, Load)
    return load


def good(number: int) -> tuple[int, list[tuple[bytes, bytes]]]:
    return 200, []


def test_clients_ask_again_when_they_were_answered_and_never_the_same() -> None:
    server = Server(good)
    load = sent(server, clients=3, expected=10, headers={"authorization": "Bearer me"})
    assert load.statuses == {"200": len(load.latencies), "none": 0}
    assert load.sent == len(server.bodies) == len(set(server.bodies)) >= len(load.latencies) > 10
    assert json.loads(server.bodies[0]).keys() == {"image"}
    assert server.headers[b"authorization"] == b"Bearer me"
    assert load.cpu_s > 0


def test_refusals_are_counted_apart_and_a_closed_connection_is_opened_again() -> None:
    def refuse(number: int) -> tuple[int, list[tuple[bytes, bytes]]]:
        return (503, [(b"retry-after", b"1"), (b"connection", b"close")]) if number % 2 else (200, [])

    load = sent(Server(refuse), clients=2)
    assert load.statuses["200"] == len(load.latencies) > 0
    assert load.statuses["503"] == len(load.refused) == load.retry_after > 0


@pytest.mark.parametrize("poisson", [True, False])
def test_at_a_rate_latency_counts_from_when_a_request_was_due(poisson: bool) -> None:
    class Stopping(Server):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await released.wait()
            await super().__call__(scope, receive, send)

    released = asyncio.Event()
    server = Stopping(good)
    begun = asyncio.Event()

    async def first(scope: Any, receive: Any, send: Any) -> None:
        if not begun.is_set():
            begun.set()
            asyncio.get_running_loop().call_later(2 * SECONDS + 0.3, released.set)
        await server(scope, receive, send)

    load = sent(first, clients=1, rate=100.0, poisson=poisson)
    # Nothing was answered before the measured time was over: those due early waited longest, and none is missing.
    assert load.statuses["none"] == 0
    assert 0.5 * 100 * SECONDS < len(load.latencies) < 2 * 100 * SECONDS
    assert min(load.latencies) > 0
    assert max(load.latencies) > SECONDS


def test_a_server_that_ends_a_connection_is_told() -> None:
    async def leave(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        raise ConnectionResetError

    assert set(sent(leave, clients=1).statuses) == {"closed", "none"}


def test_answers_in_chunks_are_understood() -> None:
    async def chunked(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{", "more_body": True})
        await send({"type": "http.response.body", "body": b"}"})

    load = sent(chunked, clients=2)
    assert load.statuses == {"200": len(load.latencies), "none": 0}
    assert load.latencies


def test_an_answer_without_a_length_is_an_error_of_the_measurement() -> None:
    with pytest.raises(ValueError, match="without a length"):
        _is_whole(b"http/1.0 200 ok", b"HTTP/1.0 200 OK\r\n\r\n{}", 19)


def test_half_of_repeated_bodies_were_sent_long_before() -> None:
    made = bodies(5, 3000, SIZE, repeated=True)
    seen: dict[bytes, int] = {}
    repeats = 0
    for place, each in enumerate(made):
        if each in seen:
            repeats += 1
            assert place - seen[each] >= LAG // 2 - 1
        seen[each] = place
    assert len(made) - len(set(made)) == repeats
    assert 0.4 < repeats / len(made) <= 0.5


def test_a_job_comes_as_json() -> None:
    job = Job(port=1, clients=2, seconds=3.0, first=4, size=SIZE, headers={"a": "b"})
    from dataclasses import asdict

    assert job_of(json.loads(json.dumps(asdict(job)))) == job
