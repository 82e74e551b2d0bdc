"""Ray's environment: fast, on the loopback interface, and two servers do not meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlhpc.errors import ConfigError
from dlhpc.serving.ray_settings import check_gpus, deployment_settings, ray_settings
from dlhpc.spec.autoscaling import AutoscalingSpec
from dlhpc.spec.serving import ServingSpec

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


def test_a_replica_that_autoscaling_stops_stays_until_nobody_sends_to_it() -> None:
    period = "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"
    assert ray_settings(FOLDER, SCRIPT, 1)[period] == "0"
    assert ray_settings(FOLDER, SCRIPT, 1, is_autoscaling=True)[period] == "3"


def test_a_fixed_number_of_replicas_is_ray_serves() -> None:
    settings = deployment_settings(ServingSpec(replicas=3, gpus_per_replica=0.25, hang_timeout_s=6.0))
    assert settings["health_check_timeout_s"] == 2.0
    assert settings["health_check_period_s"] == 1.0
    assert settings["num_replicas"] == 3
    assert settings["ray_actor_options"]["num_gpus"] == 0.25
    assert "autoscaling_config" not in settings


def test_each_setting_of_autoscaling_is_ray_serves() -> None:
    spec = AutoscalingSpec(
        min_replicas=2,
        max_replicas=5,
        target_ongoing_requests=7.0,
        look_back_s=1.0,
        upscale_delay_s=3.0,
        downscale_delay_s=4.0,
    )
    settings = deployment_settings(ServingSpec(autoscaling=spec, drain_timeout_s=20.0))
    assert "num_replicas" not in settings
    assert settings["graceful_shutdown_timeout_s"] == 23.0
    assert settings["autoscaling_config"] == {
        "min_replicas": 2,
        "max_replicas": 5,
        "target_ongoing_requests": 7.0,
        "metrics_interval_s": 0.5,
        "look_back_period_s": 1.0,
        "upscale_delay_s": 3.0,
        "downscale_delay_s": 4.0,
    }


@pytest.mark.parametrize(
    ("share", "replicas", "needed"), [(0.0, 9, 0), (0.5, 2, 1), (0.5, 3, 2), (0.4, 3, 2), (1.0, 3, 3), (2.0, 2, 4)]
)
def test_gpus_that_are_not_there_are_missed_at_once(share: float, replicas: int, needed: int) -> None:
    spec = ServingSpec(gpus_per_replica=share, replicas=replicas)
    check_gpus(spec, needed)
    if needed:
        with pytest.raises(
            ConfigError, match=rf"{replicas} replica\(s\) with {share:g} GPU each need {needed}, and this"
        ):
            check_gpus(spec, needed - 1)


def test_there_have_to_be_gpus_for_as_many_replicas_as_there_may_be() -> None:
    spec = ServingSpec(gpus_per_replica=1, autoscaling=AutoscalingSpec(max_replicas=3))
    with pytest.raises(ConfigError, match=r"3 replica\(s\) with 1 GPU each need 3, and this machine has 2"):
        check_gpus(spec, 2)
