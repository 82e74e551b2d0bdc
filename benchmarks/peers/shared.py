"""What the servers that `dlhpc bench serving` measures beside dlhpc's have in common: model, decoder, reply.

They get the model's predictor, warmed up, so that only the servers differ. Their decoder is what most people write: it
checks less than dlhpc's does.
"""

import base64
import io
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from dlhpc.backends import load_backend
from dlhpc.registry.store import Registry

MAX_BATCH_SIZE = 32
MAX_WAIT_S = 0.001
Predict = Callable[[npt.NDArray[Any]], npt.NDArray[np.float32]]


def arguments() -> tuple[str, str, int]:
    """Registry, model and port, from the command line."""
    registry, ref, port = sys.argv[1:]
    return registry, ref, int(port)


def load(registry: str, ref: str) -> tuple[Predict, tuple[str, ...]]:
    """The model's predictor, which has computed in every batch size that is compiled, and its classes."""
    artifact = Registry(registry, load_backend).get(ref)
    shape = artifact.manifest.run.model.input_shape
    assert shape is not None
    predictor = artifact.predictor()
    for size in (1, 2, 4, 8, 16, MAX_BATCH_SIZE):
        predictor(np.zeros((size, *shape), np.uint8))
    return predictor, artifact.classes


def pixels(text: str) -> npt.NDArray[np.uint8]:
    """Grey pixels (H, W, 1) of an image file in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L"))[..., np.newaxis]


def reply(row: npt.NDArray[np.float32], classes: tuple[str, ...]) -> dict[str, Any]:
    """What dlhpc answers, as far as it is about the image."""
    index = int(row.argmax())
    return {"class": index, "label": classes[index], "probabilities": dict(zip(classes, row.tolist(), strict=True))}
