"""The Open Inference Protocol over a replica: what it tells, what it infers, and how it refuses."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import dlhpc
from dlhpc.monitoring.metrics import exposition
from dlhpc.serving.api_keys import add_key, new_key
from dlhpc.serving.replica import Replica
from dlhpc.serving.slots import Slot
from dlhpc.spec.serving import AuthSpec, CacheSpec, LimitsSpec, ServingSpec
from tests.serving.asgi import CLASSES, INFO, SHAPE, SLOT, Answer, brightness, call, png, replica_of

LIGHT, DARK = np.full(SHAPE, 255, np.uint8), np.zeros(SHAPE, np.uint8)
INFER = "/v2/models/m/infer"


def asked(spec: ServingSpec, method: str, path: str, content: bytes = b"", slot: Slot = SLOT, **headers: str) -> Answer:
    """One request to a replica."""
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return asyncio.run(call(replica_of(slot, spec, "r1").app, method, path, [content], named))


def get(path: str) -> Answer:
    return asked(ServingSpec(), "GET", path)


def tensor(datatype: str, shape: Any, data: Any = None, **parameters: Any) -> dict[str, Any]:
    """An input."""
    told = {"name": "image", "datatype": datatype, "shape": list(shape)}
    return told | ({} if data is None else {"data": data}) | ({"parameters": parameters} if parameters else {})


def infer(
    image: Mapping[str, Any],
    binary: bytes | None = None,
    slot: Slot = SLOT,
    spec: ServingSpec = ServingSpec(),  # noqa: B008 - frozen
    path: str = INFER,
    **more: Any,
) -> Answer:
    """An inference of one input."""
    body = json.dumps({"inputs": [image], **more}).encode()
    headers = {} if binary is None else {"inference_header_content_length": str(len(body))}
    return asked(spec, "POST", path, body + (binary or b""), slot, **headers)


def numbers(answer: Answer) -> npt.NDArray[np.float32]:
    """The probabilities in an answer."""
    assert answer.status == 200, answer.content
    length = answer.headers.get("inference-header-content-length")
    told = json.loads(answer.content if length is None else answer.content[: int(length)])
    (output,) = told["outputs"]
    assert (output["name"], output["datatype"]) == ("probabilities", "FP32")
    if length is None:
        return np.array(output["data"], np.float32).reshape(output["shape"])
    behind = answer.content[int(length) :]
    assert answer.headers["content-type"] == "application/octet-stream"
    assert output["parameters"] == {"binary_data_size": len(behind)}
    assert "data" not in output
    return np.frombuffer(behind, "<f4").reshape(output["shape"])


def in_their_range(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    return brightness(inputs if inputs.dtype == np.uint8 else inputs * 255)


FLOATS = Slot(INFO, in_their_range)


def test_it_tells_that_it_lives_and_what_it_is() -> None:
    assert get("/v2/health/live").json == {"live": True}
    assert get("/v2/health/ready").json == {"ready": True}
    assert get("/v2").json == {
        "name": "dlhpc",
        "version": dlhpc.__version__,
        "extensions": ["binary_tensor_data", "classification"],
    }


@pytest.mark.parametrize("version", ["", "/versions/1", f"/versions/{INFO.digest}"])
def test_it_tells_what_a_model_takes_and_gives(version: str) -> None:
    assert get(f"/v2/models/m{version}").json == {
        "name": "m",
        "versions": ["1"],
        "platform": "dlhpc_flax",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert get(f"/v2/models/m{version}/ready").json == {"ready": True, "name": "m"}


@pytest.mark.parametrize("path", ["/v2/models/x", "/v2/models/m/versions/2", "/v2/models/x/ready"])
def test_another_model_is_not_found(path: str) -> None:
    answer = get(path)
    assert (answer.status, answer.json["code"]) == (404, "unknown_model")
    assert infer(tensor("UINT8", (1, *SHAPE), DARK.tolist()), path="/v2/models/x/infer").status == 404


def test_when_the_server_stops_it_is_not_ready() -> None:
    replica = replica_of(SLOT, ServingSpec(), "r1")
    replica.drain()

    async def scenario() -> list[int]:
        paths = ["/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m"]
        return [(await call(replica.app, "GET", path)).status for path in paths]

    assert asyncio.run(scenario()) == [200, 503, 503, 200]


@pytest.mark.parametrize("datatype", ["UINT8", "INT64", "UINT16", "INT32", "FP32", "FP64", "FP16"])
@pytest.mark.parametrize("is_binary", [False, True])
def test_every_type_of_numbers_is_taken_in_json_and_behind_it(datatype: str, is_binary: bool) -> None:
    is_float = datatype.startswith("FP")
    images = np.stack([LIGHT, DARK, np.full(SHAPE, 51)])
    values = (images / 255).astype(f"<f{int(datatype[2:]) // 8}") if is_float else images.astype(datatype.lower())
    if is_binary:
        content = values.tobytes()
        answer = infer(tensor(datatype, (3, *SHAPE), binary_data_size=len(content)), content, FLOATS)
    else:
        answer = infer(tensor(datatype, (3, *SHAPE), values.tolist()), slot=FLOATS)
    assert numbers(answer)[:, 1].tolist() == pytest.approx([1.0, 0.0, 0.2], abs=1e-3)


def test_data_may_be_flat() -> None:
    nested = infer(tensor("UINT8", (2, *SHAPE), np.stack([LIGHT, DARK]).tolist()))
    flat = infer(tensor("UINT8", (2, *SHAPE), np.stack([LIGHT, DARK]).reshape(-1).tolist()))
    assert np.array_equal(numbers(flat), numbers(nested))


def test_files_are_taken_as_base64_and_as_bytes() -> None:
    files = [png(255), png(0)]
    texts = [base64.b64encode(each).decode() for each in files]
    assert numbers(infer(tensor("BYTES", (2,), texts)))[:, 1].tolist() == [1.0, 0.0]
    assert numbers(infer(tensor("BYTES", (2, 1), [[text] for text in texts])))[:, 1].tolist() == [1.0, 0.0]
    content = b"".join(len(each).to_bytes(4, "little") + each for each in files)
    answer = infer(tensor("BYTES", (2,), binary_data_size=len(content)), content)
    assert numbers(answer)[:, 1].tolist() == [1.0, 0.0]


def test_the_reply_names_the_version_and_the_requests_id() -> None:
    told = infer(tensor("UINT8", (1, *SHAPE), DARK.tolist()), id="mine").json
    assert (told["model_name"], told["model_version"], told["id"]) == ("m", "1", "mine")
    assert told["parameters"] == {"digest": INFO.digest}
    assert "id" not in infer(tensor("UINT8", (1, *SHAPE), DARK.tolist())).json


@pytest.mark.parametrize(
    ("more", "is_binary"),
    [
        ({}, False),
        ({"parameters": {"binary_data_output": True, "priority": 3}}, True),
        ({"outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}]}, True),
        ({"outputs": [{"name": "probabilities"}], "parameters": {"binary_data_output": True}}, True),
        (
            {
                "outputs": [{"name": "probabilities", "parameters": {"binary_data": False}}],
                "parameters": {"binary_data_output": True},
            },
            False,
        ),
    ],
)
def test_the_client_chooses_where_the_output_is(more: dict[str, Any], is_binary: bool) -> None:
    answer = infer(tensor("UINT8", (2, *SHAPE), np.stack([LIGHT, DARK]).tolist()), **more)
    assert numbers(answer)[:, 1].tolist() == [1.0, 0.0]
    assert ("inference-header-content-length" in answer.headers) == is_binary


def test_classification_gives_the_best_as_texts() -> None:
    image = tensor("UINT8", (2, *SHAPE), np.stack([LIGHT, DARK]).tolist())
    for most, texts in [(1, ["1.000000:1:light", "1.000000:0:dark"]), (5, None)]:
        wanted = [{"name": "probabilities", "parameters": {"classification": most}}]
        (output,) = infer(image, outputs=wanted).json["outputs"]
        assert (output["datatype"], output["shape"]) == ("BYTES", [2, min(most, len(CLASSES))])
        assert texts is None or output["data"] == texts
    wanted = [{"name": "probabilities", "parameters": {"classification": 1, "binary_data": True}}]
    answer = infer(image, outputs=wanted)
    behind = answer.content[int(answer.headers["inference-header-content-length"]) :]
    assert behind == b"\x10\0\0\x001.000000:1:light\x0f\0\0\x001.000000:0:dark"


ONE = (1, *SHAPE)


@pytest.mark.parametrize(
    ("image", "code", "said"),
    [
        (tensor("UINT8", (1, 8, 8, 1), [0] * 64), "invalid_request", "[1, 8, 8, 1] came, expected [images, 4, 6, 1]"),
        (tensor("UINT8", SHAPE, [0] * 24), "invalid_request", "expected [images, 4, 6, 1]"),
        (tensor("UINT8", (0, *SHAPE), []), "invalid_request", "[0, 4, 6, 1] came"),
        (tensor("UINT8", (10**15, *SHAPE), [0]), "too_many_images", "at most 64"),
        (tensor("UINT8", ONE, [0] * 23), "invalid_request", "23 numbers came, expected 24"),
        (tensor("UINT8", ONE, [[0] * 12, [0] * 11]), "invalid_request", "unequal"),
        (tensor("UINT8", ONE, ["0"] * 24), "bad_pixels", "text came"),
        (tensor("UINT8", ONE, [0.5] * 24), "invalid_request", "not all of type UINT8"),
        (tensor("UINT8", ONE, [2**70] * 24), "invalid_request", "not all of type"),
        (tensor("INT32", ONE, [-1] * 24), "bad_pixels", "image.0: -1 at [0, 0, 0] is not within range 0..255"),
        (tensor("INT32", ONE, [256] * 24), "bad_pixels", "256 at"),
        (tensor("FP32", ONE, [float("nan")] * 24), "bad_pixels", "nan at"),
        (tensor("FP32", ONE, [1.5] * 24), "bad_pixels", "1.5 at [0, 0, 0] is not within range 0..1"),
        (tensor("FP32", ONE), "invalid_request", "neither data nor"),
        (tensor("UINT8", ONE, binary_data_size=24), "invalid_request", "no Inference-Header-Content-Length"),
        (tensor("UINT8", ONE, [0] * 24, binary_data_size=24), "invalid_request", "both data and"),
        (tensor("BOOL", ONE, [True] * 24), "invalid_request", "datatype"),
        (tensor("BYTES", (1,), [5]), "invalid_request", "expected 1 texts"),
        (tensor("BYTES", (2,), ["aaaa"]), "invalid_request", "expected 2 texts"),
        (tensor("BYTES", (1,), ["?"]), "bad_base64", "image.0: not base64"),
        (tensor("BYTES", (1,), ["aaaa"]), "bad_image", "image.0: not a PNG"),
        (
            tensor("UINT8", ONE, [0] * 24) | {"name": "pixels"},
            "invalid_request",
            "inputs.0.name: Input should",
        ),
        ({}, "invalid_request", "inputs.0.shape: Field required"),
    ],
)
def test_what_is_no_tensor_of_the_model_is_told_so(image: dict[str, Any], code: str, said: str) -> None:
    answer = infer(image)
    assert (answer.json["code"], answer.status // 100) == (code, 4)
    assert said in answer.json["error"]
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("binary", "size"), [(b"", 24), (bytes(23), 24), (bytes(25), 24), (bytes(25), 25), (bytes(24), None)]
)
def test_binary_tensors_must_be_as_long_as_they_are_said_to_be(binary: bytes, size: int | None) -> None:
    parameters = {} if size is None else {"binary_data_size": size}
    answer = infer(tensor("UINT8", ONE, **parameters), binary)
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff\xff\xff\xffab", b"\1\0\0\0ab", b"\1\0\0\0a\1\0\0\0b"])
def test_bytes_must_be_as_long_as_they_say(content: bytes) -> None:
    answer = infer(tensor("BYTES", (1,), binary_data_size=len(content)), content)
    assert "expected 1 elements of BYTES" in answer.json["error"]


@pytest.mark.parametrize("length", ["x", "-1", "1e3", "99999", "9" * 30, ""])
def test_a_wrong_length_of_the_json_is_refused(length: str) -> None:
    answer = asked(ServingSpec(), "POST", INFER, b'{"inputs":[]}', inference_header_content_length=length)
    assert (answer.status, answer.json["code"]) == (422, "invalid_request")


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"", {}, 400),
        (b"{}", {}, 422),
        (b'{"inputs":[]}', {}, 422),
        (b"{}", {"content_type": "text/plain"}, 415),
        (b"{}", {"content_encoding": "gzip"}, 415),
        (b" " * 2000, {}, 413),
    ],
)
def test_refusals_are_in_the_protocols_words(content: bytes, headers: dict[str, str], status: int) -> None:
    answer = asked(ServingSpec(limits=LimitsSpec(max_body_bytes=1000)), "POST", INFER, content, **headers)
    assert answer.status == status
    assert set(answer.json) == {"error", "code", "request_id"}
    assert answer.json["request_id"] == answer.headers["x-request-id"]


def test_unknown_paths_and_methods_are_in_its_words_too() -> None:
    assert "not served" in get("/v2/nothing").json["error"]
    assert "takes POST" in get(INFER).json["error"]
    assert "title" in get("/v3").json


def test_a_large_tensor_is_read_on_another_thread_to_the_same_end() -> None:
    images = [LIGHT.tolist()] * 64
    answer = infer(tensor("UINT8", (64, *SHAPE), images), pad=" " * 70_000)
    assert numbers(answer).shape == (64, 2)


def test_it_stands_behind_the_same_guards(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    text, key = new_key("k", ["predict"], _now())
    add_key(path, key)
    spec = ServingSpec(auth=AuthSpec(keys=path), cache=CacheSpec(max_bytes=10**6))
    body = json.dumps({"inputs": [tensor("UINT8", ONE, DARK.tolist())]}).encode()

    async def scenario(replica: Replica) -> list[Answer]:
        bearer = [("authorization", f"Bearer {text}")]
        asked = [await call(replica.app, "POST", INFER, [body], headers) for headers in ([], bearer, bearer)]
        replica.drain()
        return [*asked, await call(replica.app, "POST", INFER, [body], bearer), await call(replica.app, "GET", "/v2")]

    replica = replica_of(SLOT, spec, "r1")
    answers = asyncio.run(scenario(replica))
    assert [answer.status for answer in answers] == [401, 200, 200, 503, 200]
    assert answers[2].headers["cache-status"] == "dlhpc; hit"
    assert answers[2].content == answers[1].content
    counted = exposition([("r1", list(replica.snapshot().families))], is_ready=True).decode()
    assert 'dlhpc_requests_total{replica="r1",route="/v2/models/{name}/infer",status="200"} 2.0' in counted


def _now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def test_the_same_bytes_cut_elsewhere_are_another_question() -> None:
    replica = replica_of(SLOT, ServingSpec(cache=CacheSpec(max_bytes=10**6)), "r1")
    body = json.dumps({"inputs": [tensor("UINT8", ONE, DARK.tolist())]}).encode()

    async def scenario() -> list[int]:
        lengths: list[list[tuple[str, str]]] = [[], [("inference-header-content-length", str(len(body) - 1))]]
        return [(await call(replica.app, "POST", INFER, [body], headers)).status for headers in lengths]

    assert asyncio.run(scenario()) == [200, 400]


def test_when_the_model_fails_on_one_the_request_fails() -> None:
    def failing(inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        if (inputs.reshape(len(inputs), -1).max(axis=1) == 0).any():
            raise ArithmeticError("too dark")
        return brightness(inputs)

    answer = infer(tensor("UINT8", (2, *SHAPE), np.stack([LIGHT, DARK]).tolist()), slot=Slot(INFO, failing))
    assert (answer.status, answer.json["code"]) == (500, "prediction_failed")
    assert "too dark" in answer.json["error"]
