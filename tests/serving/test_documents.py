"""The page that shows the OpenAPI document."""

from __future__ import annotations

import asyncio
import re

from dlhpc.serving.documents import page
from dlhpc.spec.serving import ServingSpec
from tests.serving.asgi import SLOT, call, replica_of


def test_it_needs_nothing_from_elsewhere() -> None:
    text = page()[0].decode()
    assert re.findall(r"""(?:src|href|url\(|import)\W{0,3}((?:https?:)?//[^"'\s)]*)""", text) == []
    assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) == {"openapi.json"}
    assert "innerHTML" not in text


def test_a_browser_runs_its_own_script_and_no_other() -> None:
    answer = asyncio.run(call(replica_of(SLOT, ServingSpec(), "r1").app, "GET", "/docs"))
    assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
