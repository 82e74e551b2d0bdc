"""How a client reaches its server."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import pytest

from dlhpc.client import AsyncClient, Client, RequestError
from dlhpc.client.target import CONNECT_S, Target, timeouts
from dlhpc.errors import NotFoundError

AUTHORITIES = Path(ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")


def target(**changes: object) -> Target:
    values = {
        "model": None,
        "deadline_s": 30.0,
        "repeat_lost": True,
        "api_key": None,
        "verify": True,
        "proxy": None,
        **changes,
    }
    return Target("https://server", **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_faults_of_the_settings_are_told_at_once(kind: type[Client] | type[AsyncClient], tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"verify: .*absent\.pem: not a file of certificates"):
        kind("https://server", verify=tmp_path / "absent.pem")
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(NotFoundError, match=r"no\.pem"):
        kind("https://server", verify=str(tmp_path / "no.pem"))
    with pytest.raises(RequestError, match="not a URL like"):
        kind("http://[::1")
    with pytest.raises(RequestError, match="not a URL like"):
        kind("http://server", proxy="ftp://proxy")


def test_certificates_come_from_a_file_a_context_or_nowhere() -> None:
    context = ssl.create_default_context()
    made = [target(verify=verify).connected(httpx.Client, None) for verify in (AUTHORITIES, context, False)]
    contexts = [each._transport._pool._ssl_context for each in made]
    assert contexts[1] is context
    assert [each.verify_mode for each in contexts] == [ssl.CERT_REQUIRED, ssl.CERT_REQUIRED, ssl.CERT_NONE]


def test_a_connection_is_not_waited_for_as_long_as_an_answer() -> None:
    assert timeouts(30.0).connect == CONNECT_S
    assert timeouts(30.0).read == 30.0
    assert timeouts(0.5).connect == 0.5
