"""Ray Serve as it comes: its own HTTP proxy, its own batching, no settings but what batching needs to work at all."""

import asyncio
import signal
import threading
from typing import Any

import numpy as np
import ray
from ray import serve
from shared import MAX_BATCH_SIZE, MAX_WAIT_S, arguments, load, pixels, reply
from starlette.requests import Request


# The default of 5 requests at a time would leave nothing to batch.
@serve.deployment(max_ongoing_requests=512, ray_actor_options={"num_cpus": 0.1})
class Model:
    """The model as Ray Serve wants it."""

    def __init__(self, registry: str, ref: str) -> None:
        self._predict, self._classes = load(registry, ref)

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=MAX_WAIT_S)
    async def compute(self, images: list[Any]) -> list[Any]:
        """A row for each image."""
        return list(await asyncio.to_thread(self._predict, np.stack(images)))

    async def __call__(self, request: Request) -> Any:
        """The model's answer to one image."""
        return reply(await self.compute(pixels((await request.json())["image"])), self._classes)


if __name__ == "__main__":
    registry, ref, port = arguments()
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(Model.bind(registry, ref), route_prefix="/predict")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()
    ray.shutdown()
