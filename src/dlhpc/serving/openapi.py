"""The OpenAPI 3.1 document of a server: every route, with what it takes, all that it answers, and examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dlhpc import __version__
from dlhpc.serving.openapi_examples import infer_examples, predict_examples
from dlhpc.spec import oip, wire
from dlhpc.spec.serving import ServingSpec

Document = dict[str, Any]
Shape = tuple[int, int, int]

PROBLEM: Final = wire.PROBLEM_TYPE
_ALWAYS: Final = ("method_not_allowed", "internal_error", "unavailable", "replica_lost")
"""What any path may be answered with; the last two by the proxy in front."""
_OF_GUARDS: Final = {
    "auth": ("unauthenticated", "forbidden"),
    "admission": ("overloaded", "draining", "invalid_request"),
    "deadline": ("request_timeout", "deadline_exceeded", "invalid_request"),
    "rate_limits": ("rate_limited",),
    "breaker": ("breaker_open",),
    "queue": ("overloaded",),
}
"""Guard -> the codes that it refuses with."""
_OF_BODIES: Final = (
    "bad_json", "body_too_large", "image_too_large", "too_many_images", "unsupported_media_type", "invalid_request",
    "bad_base64", "bad_image", "bad_pixels", "prediction_failed",
)  # fmt: skip
_BY_HAPROXY: Final = {400: "what is no HTTP", 408: "headers that take too long"}
_RETRY: Final = (429, 503)
_IN: Final = (wire.PredictRequest, wire.ImagesRequest, wire.PixelsRequest, oip.InferRequest)
_OUT: Final = (
    wire.PredictReply, wire.PredictionsReply, wire.HealthReply, wire.Problem, oip.InferReply, oip.ServerMetadata,
    oip.ModelMetadata, oip.Live, oip.Ready, oip.OipError,
)  # fmt: skip


def openapi(spec: ServingSpec, model: str, info: wire.ModelInfo) -> Document:
    """The document of a server with this spec; the examples are for the version `info` of its `model`."""
    shape = info.input_shape
    examples = {"name": model, "version": info.name.partition(":")[2] or info.digest}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dlhpc",
            "version": __version__,
            "summary": "Classification of images by models of a registry",
            "description": "Errors are problem documents (RFC 9457) with a stable `code`; under /v2 they are worded as "
            "the Open Inference Protocol has it. Every reply has an x-request-id.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "tags": [
            {"name": "predictions", "description": "Images in, classes out"},
            {"name": "open inference protocol", "description": "Version 2, as clients of KServe and Triton speak it"},
            {"name": "health"},
            {"name": "documents"},
        ],
        "paths": _paths(spec, shape),
        "components": {
            "schemas": _schemas(),
            "headers": _HEADERS,
            "parameters": {
                name: about | ({"example": examples[name]} if name in examples else {})
                for name, about in _PARAMETERS.items()
            },
            **({"securitySchemes": _SECURITY} if spec.auth.keys is not None else {}),
        },
    }


_SECURITY: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key with the scope `predict`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same in a header of its own"},
}


def _paths(spec: ServingSpec, shape: Shape) -> Document:
    default = {"operationId": "predict", "summary": "Classify images by the default model"}
    named = {"operationId": "predictByModel", "summary": "Classify images by a model"}
    paths: Document = {
        "/predict": {"post": default | _predict(spec, shape)},
        "/models/{name}/predict": {
            "parameters": [_ref("parameters", "name")],
            "post": named | _predict(spec, shape, ("not_found", "unknown_model")),
        },
    }
    return paths | _oip_paths(spec, shape) | _health_paths() | _document_paths()


def _predict(spec: ServingSpec, shape: Shape, codes: Sequence[str] = ()) -> Document:
    files = {"schema": {"contentMediaType": "application/octet-stream"}}
    reply = {"oneOf": [_schema(wire.PredictReply), _schema(wire.PredictionsReply)]}
    body = {
        "application/json": {
            "schema": {"oneOf": [_schema(model) for model in _IN[:3]]},
            "examples": predict_examples(shape),
        },
        **{f"image/{kind}": files for kind in ("png", "jpeg", "gif", "bmp", "webp")},
        "application/octet-stream": files,
        "multipart/form-data": {"schema": {"oneOf": [_form("image", many=False), _form("images", many=True)]}},
    }
    return {
        "tags": ["predictions"],
        "parameters": _request_headers(),
        "requestBody": {"required": True, "content": body},
        "responses": {
            "200": _answer("The answer to one image, or to several", {"application/json": {"schema": reply}}, spec),
            **_refusals((*_guarded(spec), *_OF_BODIES, "bad_form", *codes), PROBLEM, "Problem", spec),
        },
        **_security(spec),
    }


def _form(name: str, *, many: bool) -> Document:
    file = {"type": "string", "contentMediaType": "application/octet-stream"}
    return {
        "type": "object",
        "properties": {name: {"type": "array", "items": file, "minItems": 1} if many else file},
        "required": [name],
        "additionalProperties": False,
    }


def _oip_paths(spec: ServingSpec, shape: Shape) -> Document:
    paths: Document = {
        "/v2": _oip_get("serverMetadata", "Name, version and extensions", oip.ServerMetadata),
        "/v2/health/live": _oip_get("serverLive", "The server answers", oip.Live),
        "/v2/health/ready": _oip_get("serverReady", "Predictions are answered", oip.Ready),
    }
    for base, suffix in (("/v2/models/{name}", ""), ("/v2/models/{name}/versions/{version}", "Version")):
        parameters = [_ref("parameters", each) for each in (("name", "version") if suffix else ("name",))]
        lost = ("not_found", "unknown_model")
        paths[base] = _oip_get(f"model{suffix}Metadata", "What a model takes and gives", oip.ModelMetadata, lost)
        paths[f"{base}/ready"] = _oip_get(f"model{suffix}Ready", "Its predictions are answered", oip.Ready, lost)
        paths[f"{base}/infer"] = {"post": {**_infer(spec, shape), "operationId": f"model{suffix}Infer"}}
        for path in (base, f"{base}/ready", f"{base}/infer"):
            paths[path]["parameters"] = parameters
    return paths


def _oip_get(name: str, summary: str, model: type[BaseModel], codes: Sequence[str] = ()) -> Document:
    responses = {
        "200": _answer(summary, {"application/json": {"schema": _schema(model)}}),
        **_refusals((*_ALWAYS, *codes), "application/json", "OipError"),
    }
    if model is oip.Ready:
        schema = {"anyOf": [_schema(oip.Ready), _schema(oip.OipError), _schema(wire.Problem)]}
        responses["503"]["content"]["application/json"]["schema"] = schema
    about = {"operationId": name, "summary": summary, "tags": ["open inference protocol"]}
    return {"get": {**about, "parameters": _any_headers(), "responses": responses}}


def _infer(spec: ServingSpec, shape: Shape) -> Document:
    length = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "description": "Bytes of JSON before binary tensors",
        "schema": {"type": "integer", "minimum": 0},
    }
    binary = {"description": "JSON, and tensors behind it"}
    body = {"application/json": {"schema": _schema(oip.InferRequest), "examples": infer_examples(shape)}}
    answer = {"application/json": {"schema": _schema(oip.InferReply)}, "application/octet-stream": {"schema": binary}}
    codes = (*_guarded(spec), *_OF_BODIES, "not_found", "unknown_model")
    return {
        "summary": "Classify images",
        "tags": ["open inference protocol"],
        "parameters": [*_request_headers(), length],
        "requestBody": {"required": True, "content": {**body, "application/octet-stream": {"schema": binary}}},
        "responses": {
            "200": _answer("Probabilities, in JSON or behind it", answer, spec),
            **_refusals(codes, "application/json", "OipError", spec),
        },
        **_security(spec),
    }


def _health_paths() -> Document:
    status = {"schema": {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}}
    told = {"schema": _schema(wire.HealthReply)}
    paths = {
        "/livez": _get("livez", "The process answers", "health", {"application/json": status}),
        "/readyz": _get("readyz", "Predictions are answered", "health", {"application/json": status}),
        "/health": _get("health", "How the server is doing", "health", {"application/json": told}),
    }
    paths["/health"]["get"]["responses"]["503"]["content"]["application/json"] = told
    return paths


def _document_paths() -> Document:
    anything, text = {"schema": {"type": "object"}}, {"schema": {"type": "string"}}
    return {
        "/openapi.json": _get("openapi", "This document", "documents", {"application/json": anything}),
        "/docs": _get("docs", "The same to read", "documents", {"text/html": text}),
    }


def _get(name: str, summary: str, tag: str, content: Document) -> Document:
    responses = {"200": _answer(summary, content), **_refusals(_ALWAYS, PROBLEM, "Problem")}
    about = {"operationId": name, "summary": summary, "tags": [tag], "parameters": _any_headers()}
    return {"get": {**about, "responses": responses}}


def _guarded(spec: ServingSpec) -> tuple[str, ...]:
    """What a prediction may be refused with by the guards that are on."""
    return (*_ALWAYS, *(code for guard in spec.guards for code in _OF_GUARDS.get(guard, ())))


def _security(spec: ServingSpec) -> Document:
    if spec.auth.keys is None:
        return {}
    return {"security": [{"bearer": []}, {"header": []}, *([{}] if spec.auth.open_predict else [])]}


def _refusals(
    codes: Iterable[str], media_type: str, model: str, spec: ServingSpec | None = None
) -> dict[str, Document]:
    """Status -> the response of all these codes that have it."""
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in dict.fromkeys(codes):
        by_status[wire.PROBLEMS[code].status].append(code)
    for status in _BY_HAPROXY:
        by_status.setdefault(status, [])
    return {
        str(status): _refusal(status, names, media_type, model, spec) for status, names in sorted(by_status.items())
    }


def _refusal(status: int, codes: list[str], media_type: str, model: str, spec: ServingSpec | None) -> Document:
    told = [f"`{code}`: {wire.PROBLEMS[code].title}" for code in codes]
    content: Document = {}
    if codes:
        narrowed = {"properties": {"code": {"enum": codes}}}
        content[media_type] = {"schema": {"allOf": [{"$ref": f"#/components/schemas/{model}"}, narrowed]}}
    if media_type != PROBLEM and set(codes) & {"unavailable", "replica_lost", "deadline_exceeded"}:
        content[PROBLEM] = {"schema": _schema(wire.Problem)}  # by the proxy in front, which knows no protocol
    if status in _BY_HAPROXY:
        told.append(f"the proxy in front: {_BY_HAPROXY[status]}")
        content["text/html"] = {"schema": {"type": "string"}}
    response = _answer("; ".join(told), content, spec)
    extra = {401: "WWW-Authenticate", 403: "WWW-Authenticate", 405: "Allow"} | dict.fromkeys(_RETRY, "Retry-After")
    if status in extra:
        response["headers"][extra[status]] = _ref("headers", extra[status])
    return response


def _answer(description: str, content: Document, spec: ServingSpec | None = None) -> Document:
    """A response, with the headers that it may have: `spec` is that of a server that guards it."""
    names = ["X-Request-Id", "Traceresponse", "Tracestate"]
    if spec is not None and "rate_limits" in spec.guards:
        names += ["RateLimit", "RateLimit-Policy"]
    if spec is not None and "cache" in spec.guards:
        names.append("Cache-Status")
    return {
        "description": description,
        "headers": {name: _ref("headers", name) for name in names},
        "content": content,
    }


def _any_headers() -> list[Document]:
    return [_ref("parameters", name) for name in ("request_id", "traceparent", "tracestate")]


def _request_headers() -> list[Document]:
    return [*_any_headers(), *(_ref("parameters", name) for name in ("deadline_ms", "priority", "canary"))]


def _header(description: str, **schema: Any) -> Document:
    return {"description": description, "schema": {"type": "string", **schema}}


_HEADERS: Final[Mapping[str, Document]] = {
    "X-Request-Id": _header("The request's, or one that was made for it"),
    "Traceresponse": _header("Trace and span of a request that came with a traceparent"),
    "Tracestate": _header("As it came"),
    "RateLimit": _header("What is left of each limit (draft-ietf-httpapi-ratelimit-headers-10)"),
    "RateLimit-Policy": _header("The limits"),
    "Cache-Status": _header("Whether the reply comes from the cache (RFC 9211)"),
    "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": _header("How to authenticate (RFC 6750)"),
    "Allow": _header("Methods that this path takes"),
}


def _parameter(name: str, place: str, description: str, **schema: Any) -> Document:
    return {
        "name": name,
        "in": place,
        "required": place == "path",
        "description": description,
        "schema": {"type": "string", **schema},
    }


_PLAIN: Final = "^[A-Za-z0-9][A-Za-z0-9._:@-]{0,199}$"
_PARAMETERS: Final[Mapping[str, Document]] = {
    "name": _parameter("name", "path", "Name of a model that is served", pattern=_PLAIN),
    "version": _parameter("version", "path", "Its number in the registry, or its digest", pattern=_PLAIN),
    "request_id": _parameter(
        "x-request-id", "header", "Comes back in the reply; the log names it", pattern="^[!-~]{1,128}$"
    ),
    "traceparent": _parameter(
        "traceparent",
        "header",
        "A trace to continue (W3C Trace Context)",
        pattern="^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
    ),
    "tracestate": _parameter("tracestate", "header", "Comes back with the trace", pattern="^[ -~]{1,512}$"),
    "deadline_ms": {
        "name": wire.DEADLINE_MS,
        "in": "header",
        "description": "For how many milliseconds the client will wait, when that is less than the server's deadline",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999_999},
    },
    "canary": _parameter(
        wire.CANARY,
        "header",
        "Chooses the canary of a model that has one, or its stable version",
        enum=["always", "never"],
    ),
    "priority": _parameter(
        wire.PRIORITY, "header", "`low` lets others go first when the server is busy", enum=["low", "normal"]
    ),
}


def _ref(kind: str, name: str) -> Document:
    return {"$ref": f"#/components/{kind}/{name}"}


def _schema(model: type[BaseModel]) -> Document:
    return _ref("schemas", model.__name__)


def _schemas() -> Document:
    """JSON schemas of everything that goes over the wire."""
    wanted: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in _IN]
    wanted += [(model, "serialization") for model in _OUT]
    _, document = models_json_schema(wanted, ref_template="#/components/schemas/{model}")
    schemas: Document = document["$defs"]
    return schemas
