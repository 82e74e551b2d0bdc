"""A bare server as a careful person writes it: FastAPI on uvicorn, a micro-batcher, and no guards."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, Field
from shared import MAX_BATCH_SIZE, arguments, load, pixels, reply


class Ask(BaseModel):
    """A request."""

    image: str


class Answer(BaseModel):
    """A reply."""

    index: int = Field(alias="class")
    label: str
    probabilities: dict[str, float]


registry, ref, port = arguments()
predict, classes = load(registry, ref)
app = FastAPI()
waiting: list[tuple[npt.NDArray[np.uint8], asyncio.Future[npt.NDArray[np.float32]]]] = []
is_running = False
model_thread = ThreadPoolExecutor(1)


async def compute() -> None:
    """Answer what waits, a batch at a time; what comes meanwhile makes the next batch."""
    global is_running  # noqa: PLW0603 - one model, one batch at a time
    while waiting:
        batch = waiting[:MAX_BATCH_SIZE]
        del waiting[:MAX_BATCH_SIZE]
        images = np.stack([image for image, _ in batch])
        rows = await asyncio.get_running_loop().run_in_executor(model_thread, predict, images)
        for (_, future), row in zip(batch, rows, strict=True):
            if not future.done():
                future.set_result(row)
    is_running = False


@app.post("/predict")
async def answer(ask: Ask) -> Answer:
    """The model's answer to one image."""
    global is_running  # noqa: PLW0603
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    waiting.append((pixels(ask.image), future))
    if not is_running:
        is_running = True
        asyncio.get_running_loop().call_soon(asyncio.ensure_future, compute())
    return Answer.model_validate(reply(await future, classes))


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, log_level="warning")
