"""What Triton's own HTTP client, unmodified, makes of a server: `python triton_session.py HOST:PORT MODEL ROWS.npy`.

Runs in an environment of its own. Prints what it was told as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def outputs(client: Any, model: str, images: Any, is_binary: bool, version: str = "") -> Any:
    """The probabilities of images."""
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=is_binary)]
    tensor = triton.InferInput("image", images.shape, np_to_triton_dtype(images.dtype))
    tensor.set_data_from_numpy(images, binary_data=is_binary)
    return client.infer(model, [tensor], model_version=version, outputs=wanted).as_numpy("probabilities")


def main(address: str, model: str, path: str) -> None:
    """One session."""
    client = triton.InferenceServerClient(address, concurrency=4)
    images = np.load(path)
    told: dict[str, Any] = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(model),
        "version_ready": client.is_model_ready(model, "1"),
        "unknown_ready": client.is_model_ready("nothing"),
        "server": client.get_server_metadata(),
        "model": client.get_model_metadata(model),
        "binary": outputs(client, model, images, True).tolist(),
        "json": outputs(client, model, images, False, "1").tolist(),
        "floats": outputs(client, model, (images / 255).astype(np.float32), True).tolist(),
    }
    plain = triton.InferInput("image", images.shape, "UINT8")
    plain.set_data_from_numpy(images)
    result = client.infer(model, [plain], request_id="mine", priority=1, timeout=1_000_000)
    told["default"] = result.as_numpy("probabilities").tolist()
    told["id"] = result.get_response()["id"]
    best = triton.InferRequestedOutput("probabilities", binary_data=True, class_count=1)
    told["classes"] = [
        text.decode() for text in client.infer(model, [plain], outputs=[best]).as_numpy("probabilities").flat
    ]
    waiting = [client.async_infer(model, [plain]) for _ in range(8)]
    told["async"] = [each.get_result().as_numpy("probabilities").shape[0] for each in waiting]
    wrong = triton.InferInput("image", [1, 2], "UINT8")
    wrong.set_data_from_numpy(np.zeros((1, 2), np.uint8))
    try:
        client.infer(model, [wrong])
    except InferenceServerException as error:
        told["error"] = [error.status(), error.message()]
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
