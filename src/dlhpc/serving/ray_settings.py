"""What Ray is told by its environment. Ray reads it when it is imported, and every process of a cluster inherits it."""

from __future__ import annotations

import secrets
from pathlib import Path


def ray_settings(folder: Path, proxy_script: Path, fallback_port: int) -> dict[str, str]:
    """Environment variables for a fast, quiet cluster on the loopback interface.

    `folder` takes HAProxy's files; `fallback_port` is a free port of 127.0.0.1 for Ray's own proxy, which nobody asks.
    """
    return {
        # Fast: HAProxy in front, which asks the replicas directly, and user code on the replica's own event loop.
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "1",  # the supervisor, which has no loop, calls the replicas
        # Only what reached no replica goes to another: a request that kills replicas must not go from one to the next.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # would parse a line of log per request, in Python
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(proxy_script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/p/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/p/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{folder}/p",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/p/server-state",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{folder}/p/metrics.sock",
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        # The supervisor drains: when Ray stops a replica, nothing is in flight any more. Signals are the supervisor's.
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        # Private: no usage reports; the node is 127.0.0.1, so that nothing of Ray listens elsewhere (Ray names the
        # switch after the systems on which that is its default); a token that other users of this machine lack.
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
