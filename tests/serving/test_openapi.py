"""The OpenAPI document: it tells every route and answer, and its examples can be sent."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from dlhpc.serving.openapi import openapi
from dlhpc.serving.openapi_examples import infer_examples, predict_examples
from dlhpc.serving.replica import Replica
from dlhpc.spec.rates import RateLimitsSpec, RateSpec
from dlhpc.spec.serving import AuthSpec, BatchingSpec, BreakerSpec, CacheSpec, LimitsSpec, ServingSpec
from dlhpc.spec.wire import PROBLEMS
from tests.serving.asgi import INFO, SHAPE, SLOT, Answer, body, call, png, replica_of

GUARDED = ServingSpec(
    auth=AuthSpec(keys=Path("keys.json")),
    rate_limits=RateLimitsSpec(total=RateSpec(per_second=1.0)),
    cache=CacheSpec(max_bytes=1000),
)
BARE = ServingSpec(
    limits=LimitsSpec(deadline_s=None), breaker=BreakerSpec(enabled=False), batching=BatchingSpec(refuse_hopeless=False)
)
PLAIN = openapi(ServingSpec(), "m", INFO)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, about in item.items():
            if method != "parameters":
                yield path, method, about


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        yield from ([node["$ref"]] if "$ref" in node else [])
        yield from (each for value in node.values() for each in references(value))
    elif isinstance(node, list):
        yield from (each for value in node for each in references(value))


@pytest.mark.parametrize("spec", [ServingSpec(), GUARDED, BARE])
def test_everything_that_it_refers_to_is_there_and_used(spec: ServingSpec) -> None:
    document = openapi(spec, "m", INFO)
    for reference in references(document):
        node = document
        for key in reference.removeprefix("#/").split("/"):
            node = node[key]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    names = [about["operationId"] for _, _, about in operations(document)]
    assert len(set(names)) == len(names)


def test_its_parameters_have_the_served_version_for_an_example() -> None:
    parameters = PLAIN["components"]["parameters"]
    assert (parameters["name"]["example"], parameters["version"]["example"]) == ("m", "1")


def test_it_tells_the_servers_routes_and_no_others() -> None:
    replica = replica_of(SLOT, ServingSpec(), "r1")
    served = {(path, method.lower()) for path, methods in replica.app.routes.items() for method in methods}
    assert {(path, method) for path, method, _ in operations(PLAIN)} == served


def codes(about: dict[str, Any]) -> set[str]:
    """The codes of an operation's answers, each with its own status."""
    found = set()
    for status, answer in about["responses"].items():
        for content in answer["content"].values():
            for part in content["schema"].get("allOf", []):
                for code in part.get("properties", {}).get("code", {}).get("enum", []):
                    assert str(PROBLEMS[code].status) == status
                    found.add(code)
    return found


def test_predictions_may_be_refused_with_every_code_there_is() -> None:
    document = openapi(GUARDED, "m", INFO)
    assert codes(document["paths"]["/models/{name}/predict"]["post"]) == set(PROBLEMS)
    assert codes(document["paths"]["/v2/models/{name}/infer"]["post"]) == set(PROBLEMS) - {"bad_form"}


def test_what_is_switched_off_is_not_told() -> None:
    told = codes(openapi(BARE, "m", INFO)["paths"]["/predict"]["post"])
    off = {"unauthenticated", "forbidden", "request_timeout", "deadline_exceeded", "rate_limited", "breaker_open"}
    assert not told & off
    assert "securitySchemes" not in PLAIN["components"]
    assert "security" not in PLAIN["paths"]["/predict"]["post"]


def test_keys_are_told_where_they_are_needed() -> None:
    document = openapi(GUARDED, "m", INFO)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "header"}
    assert document["paths"]["/predict"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert "security" not in document["paths"]["/livez"]["get"]
    headers = document["paths"]["/predict"]["post"]["responses"]["200"]["headers"]
    assert {"RateLimit", "RateLimit-Policy", "Cache-Status", "X-Request-Id", "Traceresponse"} <= set(headers)
    is_open = GUARDED.model_copy(update={"auth": AuthSpec(keys=Path("keys.json"), open_predict=True)})
    assert {} in openapi(is_open, "m", INFO)["paths"]["/predict"]["post"]["security"]


EXAMPLES = [("/predict", each["value"]) for each in predict_examples(SHAPE).values()] + [
    ("/v2/models/m/infer", each["value"]) for each in infer_examples(SHAPE).values()
]


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def pattern_of(path: str) -> str:
    return path.replace("/m/", "/{name}/")


@pytest.mark.parametrize(("path", "example"), EXAMPLES)
def test_its_examples_are_what_it_says_and_are_answered_as_it_says(path: str, example: dict[str, Any]) -> None:
    about = PLAIN["paths"][pattern_of(path)]["post"]
    validator(PLAIN, about["requestBody"]["content"]["application/json"]["schema"]).validate(example)
    answer = ask("POST", path, json.dumps(example).encode())
    assert answer.status == 200
    validator(PLAIN, about["responses"]["200"]["content"]["application/json"]["schema"]).validate(answer.json)


def ask(method: str, path: str, content: bytes = b"", **headers: str) -> Answer:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return asyncio.run(call(REPLICA.app, method, path, [content], named))


REPLICA: Replica = replica_of(SLOT, ServingSpec(), "r1")


@pytest.mark.parametrize(
    ("method", "path", "content", "headers"),
    [
        ("POST", "/predict", b"{", {}),
        ("POST", "/predict", b"{}", {}),
        ("POST", "/predict", body(b"no"), {}),
        ("POST", "/predict", body(), {"content_type": "text/plain"}),
        ("POST", "/predict", body(), {"x_priority": "high"}),
        ("POST", "/predict", body(png(size=(9000, 9000))), {}),
        ("POST", "/models/x/predict", body(), {}),
        ("DELETE", "/predict", b"", {}),
        ("POST", "/v2/models/m/infer", b"{}", {}),
        ("POST", "/v2/models/x/infer", b"{}", {}),
        ("GET", "/v2/models/m/versions/7", b"", {}),
        ("GET", "/v2/models/m", b"", {}),
        ("GET", "/v2", b"", {}),
        ("GET", "/v2/health/ready", b"", {}),
        ("GET", "/health", b"", {}),
        ("GET", "/livez", b"", {}),
        ("GET", "/readyz", b"", {}),
        ("GET", "/openapi.json", b"", {}),
    ],
)
def test_what_is_answered_is_what_it_says(method: str, path: str, content: bytes, headers: dict[str, str]) -> None:
    answer = ask(method, path, content, **headers)
    declared = re.sub(r"models/\w+", "models/{name}", path).replace("versions/7", "versions/{version}")
    item = PLAIN["paths"][declared]
    about = item.get(method.lower()) or next(iter(each for key, each in item.items() if key != "parameters"))
    told = about["responses"][str(answer.status)]
    schema = told["content"][answer.headers["content-type"]]["schema"]
    validator(PLAIN, schema).validate(answer.json)
    known = {name.lower() for name in told["headers"]} | {"content-type", "content-length", "connection", "x-close"}
    assert set(answer.headers) <= known


def test_the_model_that_is_served_makes_the_examples() -> None:
    document = ask("GET", "/openapi.json").json
    assert document == json.loads(json.dumps(openapi(ServingSpec(), "m", INFO)))
