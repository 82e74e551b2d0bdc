"""Ray's environment: fast, on the loopback interface, and two servers do not meet."""

from __future__ import annotations

from pathlib import Path

from dlhpc.serving.ray_settings import ray_settings

FOLDER, SCRIPT = Path("/tmp/dlhpc-x"), Path("/tmp/dlhpc-x/haproxy")


def test_the_fast_settings_are_on() -> None:
    settings = ray_settings(FOLDER, SCRIPT, 1234)
    assert settings["RAY_SERVE_ENABLE_HA_PROXY"] == settings["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert settings["RAY_SERVE_HAPROXY_BINARY_PATH"] == str(SCRIPT)
    assert settings["RAY_SERVE_FALLBACK_PROXY_HTTP_PORT"] == "1234"
    assert settings["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure"
    assert settings["RAY_USAGE_STATS_ENABLED"] == "0"


def test_every_file_of_haproxy_is_in_the_servers_own_folder() -> None:
    paths = [value for value in ray_settings(FOLDER, SCRIPT, 1).values() if value.startswith("/")]
    assert len(paths) == 6
    assert all(path.startswith(f"{FOLDER}/") for path in paths)


def test_each_server_has_its_own_secret() -> None:
    one, other = (ray_settings(FOLDER, SCRIPT, 1)["RAY_AUTH_TOKEN"] for _ in range(2))
    assert one != other
    assert len(one) == 64
