"""Paths and patterns, and what is neither."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.serving.exchange import Reply, Request
from dlhpc.serving.routes import LONGEST_PATH, Routes


async def handler(request: Request) -> Reply:
    return Reply(200, b"")


HERE = {"GET": handler}
PATHS = ("/predict", "/models/{name}/predict", "/models/{name}/{what}", "/models/all/predict", "/v2/models/{name}")
ROUTES = Routes(dict.fromkeys(PATHS, HERE))


@pytest.mark.parametrize(
    ("path", "pattern", "parameters"),
    [
        ("/predict", "/predict", {}),
        ("/models/digits/predict", "/models/{name}/predict", {"name": "digits"}),
        ("/models/digits-mlp@production/predict", "/models/{name}/predict", {"name": "digits-mlp@production"}),
        ("/models/all/predict", "/models/all/predict", {}),
        ("/models/digits/explain", "/models/{name}/{what}", {"name": "digits", "what": "explain"}),
        ("/v2/models/sha256:0af3", "/v2/models/{name}", {"name": "sha256:0af3"}),
    ],
)
def test_a_path_finds_its_route(path: str, pattern: str, parameters: Mapping[str, str]) -> None:
    found = ROUTES.find(path, path.encode())
    assert found is not None
    assert (found.pattern, found.parameters, found.methods) == (pattern, parameters, HERE)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "predict",
        "//predict",
        "/predict/",
        "/models//predict",
        "/models/../predict",
        "/models/./predict",
        "/models/.hidden/predict",
        "/models/-/predict",
        "/models/a b/predict",
        "/models/a\0/predict",
        "/models/a\n/predict",
        "/models/a\\b/predict",
        "/models/%2e%2e/predict",
        "/models/café/predict",
        "/models/٣/predict",
        "/models/" + "a" * 201 + "/predict",
        "/models/{name}/predict",
        "/models/a/predict/more",
        "/models/a/predict" + "/" * 60_000,
        "/v2/models/" + "a" * LONGEST_PATH,
    ],
)
def test_tricks_find_none(path: str) -> None:
    assert ROUTES.find(path) is None


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/models/a/predict", b"/models/a%2fpredict"),
        ("/models/a/predict", b"/models%2Fa/predict"),
        ("/predict", b"%2fpredict"),
    ],
)
def test_an_encoded_slash_is_no_slash(path: str, raw: bytes) -> None:
    assert ROUTES.find(path) is not None
    assert ROUTES.find(path, raw) is None


@given(st.text(max_size=40))
def test_whatever_stands_for_a_parameter_is_one_plain_name(text: str) -> None:
    found = ROUTES.find(f"/models/{text}/predict")
    if found is not None and found.parameters:
        value = found.parameters["name"]
        assert value == text
        assert value.isascii()
        assert value[0].isalnum()
        assert not set(value) & set("/\\%\0 \n")
