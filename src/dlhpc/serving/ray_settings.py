"""What Ray is told: by its environment, which it reads when it is imported and every process of a cluster inherits, and
about our deployment."""

from __future__ import annotations

import math
import secrets
from pathlib import Path
from typing import Any, Final

from dlhpc.errors import ConfigError
from dlhpc.spec.autoscaling import AutoscalingSpec
from dlhpc.spec.serving import ServingSpec

HEALTH_CHECKS: Final = 3
"""A replica that fails so many in a row is replaced: Ray's number."""
CPUS_PER_REPLICA: Final = 0.1
"""What Ray books, so that a small machine takes several replicas; they use what they need."""
LEAVING_S: Final = 3
"""For so long a replica that autoscaling stops is still there for requests: until HAProxy has heard of it."""
_TELL_S: Final = 1.0
"""Between two counts that a replica sends to who decides on the number of replicas."""


def ray_settings(
    folder: Path, proxy_script: Path, fallback_port: int, *, is_autoscaling: bool = False
) -> dict[str, str]:
    """Environment variables for a fast, quiet cluster on the loopback interface.

    `folder` takes HAProxy's files; `fallback_port` is a free port of 127.0.0.1 for Ray's own proxy, which nobody asks.
    `is_autoscaling` says that Ray stops replicas of its own accord.
    """
    return {
        # Fast: HAProxy in front, which asks the replicas directly, and user code on the replica's own event loop.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",  # the supervisor, which has no loop, calls the replicas
        # Only what reached no replica goes to another: a request that kills replicas must not go from one to the next.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure",
        # A replica that hangs gets no more requests after some seconds, long before it is replaced.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "2s",
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "3",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # would parse a line of log per request, in Python
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(proxy_script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/p/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/p/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{folder}/p",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/p/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/p/metrics.sock",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        # The supervisor drains: when it lets Ray stop the replicas, nothing is in flight any more. Signals are its own.
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(LEAVING_S if is_autoscaling else 0),
        # Private: no usage reports; the node is 127.0.0.1, so that nothing of Ray listens elsewhere (Ray names the
        # switch after the systems on which that is its default); a token that other users of this machine lack.
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


def deployment_settings(spec: ServingSpec) -> dict[str, Any]:
    """The options of the deployment whose replicas answer."""
    settings: dict[str, Any] = {
        "name": "replica",
        # Our own admission answers at once and in our words; Ray would let requests wait.
        "max_ongoing_requests": 1_000_000,
        "max_constructor_retry_count": 1,
        "health_check_period_s": spec.hang_timeout_s / HEALTH_CHECKS / 2,
        "health_check_timeout_s": spec.hang_timeout_s / HEALTH_CHECKS,
        "ray_actor_options": {"num_cpus": CPUS_PER_REPLICA, "num_gpus": spec.gpus_per_replica},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
    }
    if spec.autoscaling is None:
        return {**settings, "num_replicas": spec.replicas}
    return {
        **settings,
        "autoscaling_config": _autoscaling(spec.autoscaling),
        "graceful_shutdown_timeout_s": LEAVING_S + spec.drain_timeout_s,
        "graceful_shutdown_wait_loop_s": 0.5,
    }


def check_gpus(spec: ServingSpec, there: float) -> None:
    """Raise ConfigError unless all replicas, as many as there may be, find their share of the machine's GPUs.

    Ray would wait for more GPUs, for ever. A share lies on one GPU: of 0.4 each takes two.
    """
    share, count = spec.gpus_per_replica, spec.most_replicas
    needed = 0.0
    if share >= 1:
        needed = share * count
    elif share > 0:
        needed = math.ceil(count / math.floor(1 / share))
    if needed > there:
        raise ConfigError(
            f"gpus_per_replica: {count} replica(s) with {share:g} GPU each need {needed:g}, and this machine has "
            f"{there:g}: set gpus_per_replica=0 to compute on the CPU, a smaller share, or fewer replicas"
        )


def _autoscaling(spec: AutoscalingSpec) -> dict[str, Any]:
    """Ray's names. Behind HAProxy replicas count their requests themselves, and tell the controller every second."""
    return {
        "min_replicas": spec.min_replicas,
        "max_replicas": spec.max_replicas,
        "target_ongoing_requests": spec.target_ongoing_requests,
        "metrics_interval_s": min(_TELL_S, spec.look_back_s / 2),
        "look_back_period_s": spec.look_back_s,
        "upscale_delay_s": spec.upscale_delay_s,
        "downscale_delay_s": spec.downscale_delay_s,
    }
