"""Users of a running server, for Locust, every one of whom sends images that were not sent before.

    $(python tools/environments.py peers) -m locust -f tests/performance/locustfile.py \\
        --headless --users 32 --spawn-rate 32 --run-time 30s --host http://127.0.0.1:8000

Without --headless there is a page on port 8089. DLHPC_API_KEY is sent where a server asks for keys, and
DLHPC_IMAGE_SIZE (8 unless given) is the images' height and width. It ends with 1 when more than one request in a
hundred fails. For figures use `dlhpc bench serving`: Locust takes more of the processor than the servers that it asks.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, constant, events, task

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from dlhpc.bench.requests import body

SIDE = int(os.environ.get("DLHPC_IMAGE_SIZE", "8"))
KEY = os.environ.get("DLHPC_API_KEY")
MOST_FAILED = 0.01
numbers = itertools.count(random.SystemRandom().randrange(1 << 28))

body(0, (SIDE, SIDE))  # reads the digits, which takes a second or two, before the users' time runs,
gevent.sleep(0)  # and lets gevent look at the clock, or --run-time would begin before that


class Caller(FastHttpUser):
    """Asks again as soon as it was answered."""

    wait_time = constant(0)

    @task(20)
    def predict(self) -> None:
        """One image."""
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {KEY}"} if KEY else {})}
        self.client.post("/predict", data=body(next(numbers), (SIDE, SIDE)), headers=headers)

    @task(1)
    def readiness(self) -> None:
        """What a load balancer asks."""
        self.client.get("/readyz")


@events.quitting.add_listener
def judge(environment: Any, **_: Any) -> None:
    """Fail when too many requests did; how fast they were is for who reads the table."""
    if environment.stats.total.fail_ratio > MOST_FAILED:
        environment.process_exit_code = 1
