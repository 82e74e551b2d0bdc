"""Versions that follow each other under load, on real servers of two replicas."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import httpx
import pytest

from dlhpc.api import Registry
from dlhpc.registry import blobs
from dlhpc.registry.artifact import Artifact
from dlhpc.serving.processes import command_line
from tests.serving.load import under_load
from tests.serving.process_tree import tree
from tests.serving.test_server import artifact_of
from tests.serving.test_server_faults import Started, started

pytestmark = [
    pytest.mark.server,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(sys.platform != "linux", reason="HAProxy comes for Linux, and /proc is looked into"),
]

ROLLS = 20
SETTINGS = ("model=digits@production", "replicas=2", "watch_s=0.1")


def versions(folder: Path) -> tuple[Registry, Artifact, Artifact]:
    """A registry with digits:1, which is in production, and digits:2."""
    first, second = (artifact_of(folder / "registry", seed) for seed in (3, 4))
    registry = Registry(folder / "registry")
    registry.set_alias("digits", "production", "digits:1")
    return registry, first, second


def replicas(server: Started) -> set[int]:
    return {pid for pid in tree(server.process.pid) if "ray::ServeReplica" in command_line(pid)}


def test_rolling_to_a_new_version_and_back_fails_no_request(tmp_path: Path) -> None:
    registry, first, second = versions(tmp_path)
    with started(tmp_path, *SETTINGS) as server:
        server.wait_for_line("ready:")
        before = replicas(server)
        with under_load(server.url, [first, second]) as load:
            for number in range(ROLLS):
                target = (second, first)[number % 2]
                registry.set_alias("digits", "production", f"digits:{2 - number % 2}")
                load.until_answered_by(target, count=50)
        assert load.faults == []
        assert server.log.read_text().count("answers in place of") == ROLLS
        assert replicas(server) == before
        print(f"{ROLLS} changes, {sum(load.answered.values())} replies: {dict(load.answered)}")


def test_a_corrupt_version_is_not_followed_and_the_old_one_answers_on(tmp_path: Path) -> None:
    registry, first, second = versions(tmp_path)
    weights = second.manifest.files["weights.safetensors"].sha256
    blob = Path(str(blobs.content_path(registry.blobs, weights)))
    content = blob.read_bytes()
    blob.chmod(0o600)
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with started(tmp_path, *SETTINGS) as server:
        server.wait_for_line("ready:")
        with under_load(server.url, [first]) as load:
            registry.set_alias("digits", "production", "digits:2")
            server.wait_for_line("digits@production: ")
            load.until_answered_by(first)
            registry.set_alias("digits", "production", "digits:1")
            (tmp_path / "registry").rename(tmp_path / "gone")
            load.until_answered_by(first)
        assert load.faults == []


def test_a_replica_that_comes_after_a_change_begins_with_the_new_version(tmp_path: Path) -> None:
    registry, first, second = versions(tmp_path)
    with started(tmp_path, *SETTINGS) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        server.wait_for_line("ready:")
        with under_load(server.url, [first, second]) as load:
            registry.set_alias("digits", "production", "digits:2")
            load.until_answered_by(second)
        assert load.faults == []
        before = replicas(server)
        os.kill(min(before), signal.SIGKILL)
        while len(replicas(server) - before) < 1:
            time.sleep(0.1)
        seen = 0
        while seen < 20:
            try:
                reply = client.get("/health", timeout=60.0)
            except httpx.HTTPError:
                continue
            if reply.status_code == 200:
                assert [each["name"] for each in reply.json()["models"]] == ["digits:2"]
                seen += 1
