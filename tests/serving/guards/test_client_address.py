"""Whom a request is counted for cannot be chosen by whoever sends it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dlhpc.serving.api_keys import new_key
from dlhpc.serving.exchange import Request
from dlhpc.serving.guards.client_address import client_address, client_of, networks
from tests.serving.asgi import receiving

TRUSTED = networks(["10.0.0.0/8", "2001:db8::/32"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("192.0.2.1", None, "192.0.2.1"),
        ("192.0.2.1", b"203.0.113.9", "192.0.2.1"),  # nobody said that it may speak for others
        ("10.0.0.1", b"203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", b"198.51.100.1, 203.0.113.9", "203.0.113.9"),  # the first may be invented
        ("10.0.0.1", b"203.0.113.9, 10.0.0.2", "203.0.113.9"),  # two proxies of ours
        ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", b"10.0.0.3", "10.0.0.3"),
        ("10.0.0.1", b"unknown", "10.0.0.1"),
        ("10.0.0.1", b"203.0.113.9, \xff", "10.0.0.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("::ffff:10.0.0.1", b"203.0.113.9", "203.0.113.9"),
        ("2001:db8::1", b"2001:470:1:2:3::4", "2001:470:1:2::/64"),
        ("2001:470:1:2::9", None, "2001:470:1:2::/64"),
        ("", None, ""),
        ("a socket", b"203.0.113.9", "a socket"),
    ],
)
def test_the_nearest_address_that_is_not_trusted_counts(peer: str, forwarded: bytes | None, address: str) -> None:
    assert client_address(peer, forwarded, TRUSTED) == address


def test_a_client_is_its_key_and_only_without_one_its_address() -> None:
    headers = [(b"x-forwarded-for", b"203.0.113.9")]
    request = Request("POST", "/predict", headers, receiving([]), "id", "10.0.0.1")
    assert client_of(request, TRUSTED) == "203.0.113.9"
    assert client_of(request, ()) == "10.0.0.1"
    _, request.key = new_key("ci", ["predict"], datetime.now(UTC))
    assert client_of(request, TRUSTED) == f"key {request.key.id}"
