"""The one server that all faults share which need no special one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.server import Running, publish, running

MOST_BYTES = 500_000


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One replica with a sound model and a poisoned one, a breaker that is soon open, and narrow limits."""
    folder = tmp_path_factory.mktemp("faults")
    publish(folder / "registry")
    publish(folder / "registry", "poisoned", is_poisoned=True)
    publish(folder / "registry", "slow", hidden=(4096, 4096))
    settings = [
        "models={digits: {ref: digits}, poisoned: {ref: poisoned}, slow: {ref: slow}}",
        f"limits.max_body_bytes={MOST_BYTES}",
        "limits.header_timeout_s=2", "limits.deadline_s=20", "batching.max_batch_size=8", "breaker.min_requests=6",
        "breaker.open_s=1",
    ]  # fmt: skip
    with running(folder, *settings) as server:
        yield server
