"""LitServe with its own batching, in its fast mode (ZeroMQ between the server and the model's process)."""

from typing import Any

import litserve
import numpy as np
from shared import MAX_BATCH_SIZE, MAX_WAIT_S, arguments, load, pixels, reply

registry, ref, port = arguments()


class Api(litserve.LitAPI):
    """The model as LitServe wants it."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self._predict, self._classes = load(registry, ref)

    def decode_request(self, request: dict[str, Any], **kwargs: Any) -> Any:
        """Pixels of one image."""
        return pixels(request["image"])

    def batch(self, inputs: Any) -> Any:
        """Images that are there together."""
        return np.stack(inputs)

    def predict(self, x: Any, **kwargs: Any) -> Any:
        """Probabilities."""
        return self._predict(x)

    def unbatch(self, output: Any) -> Any:
        """A row for each image."""
        return list(output)

    def encode_response(self, output: Any, **kwargs: Any) -> Any:
        """One reply."""
        return reply(output, self._classes)


if __name__ == "__main__":
    api = Api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=MAX_WAIT_S)
    server = litserve.LitServer(api, accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", access_log=False)
