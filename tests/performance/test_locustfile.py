"""Locust runs our file, and judges by what failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dlhpc.spec.rates import RateLimitsSpec, RateSpec
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import SLOT, replica_of
from tests.serving.http_server import serving

pytestmark = pytest.mark.deploy
COMMAND = "locust -f tests/performance/locustfile.py"


@pytest.fixture
def python(checkout: Path) -> str:
    """That of an environment with Locust in it."""
    made = subprocess.run(
        [sys.executable, "tools/environments.py", "peers"], cwd=checkout, stdout=subprocess.PIPE, text=True, check=True
    )
    return made.stdout.strip()


@pytest.mark.parametrize(("limited", "status"), [(False, 0), (True, 1)])
def test_locust_asks_and_judges(checkout: Path, python: str, limited: bool, status: int) -> None:
    rate = RateLimitsSpec(total=RateSpec(per_second=1.0, burst=1)) if limited else RateLimitsSpec()
    with serving(replica_of(SLOT, ServingSpec(rate_limits=rate), "r1").app) as port:
        options = ["--headless", "--users", "2", "--run-time", "3s", "--host", f"http://127.0.0.1:{port}"]
        command = [python, "-m", *COMMAND.split(), *options]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd=checkout)
    assert ended.returncode == status, ended.stderr
    assert "/predict" in ended.stdout + ended.stderr, ended.stderr
