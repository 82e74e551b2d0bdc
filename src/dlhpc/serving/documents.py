"""/openapi.json, and /docs: a page that shows it, without anything from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.resources import files

from dlhpc.serving.exchange import Handler, Headers, Reply, Request
from dlhpc.serving.openapi import openapi
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.wire import ModelInfo


def document_routes(
    spec: ServingSpec, served: Callable[[], tuple[str, ModelInfo]]
) -> Mapping[str, Mapping[str, Handler]]:
    """The routes; `served` gives the default model and its version, for the examples."""

    @lru_cache(maxsize=4)
    def written(model: str, info: ModelInfo) -> bytes:
        return json.dumps(openapi(spec, model, info), separators=(",", ":")).encode()

    async def document(request: Request) -> Reply:
        return Reply(200, written(*served()))

    async def docs(request: Request) -> Reply:
        content, headers = page()
        return Reply(200, content, b"text/html; charset=utf-8", headers)

    return {"/openapi.json": {"GET": document}, "/docs": {"GET": docs}}


@lru_cache(maxsize=1)
def page() -> tuple[bytes, Headers]:
    """The page, and headers that let a browser run its own script and style and nothing else."""
    text = (files("dlhpc.serving") / "docs.html").read_text("utf-8")
    style, script = (_source(text, tag) for tag in ("style", "script"))
    policy = (
        f"default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    headers = ((b"content-security-policy", policy.encode()), (b"x-content-type-options", b"nosniff"))
    return text.encode(), headers


def _source(text: str, tag: str) -> str:
    """What a content security policy calls the one element of this tag: the hash of its text."""
    (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()}'"
