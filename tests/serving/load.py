"""Clients that ask a server all the time and compare each reply with what the version that it names gives offline."""

from __future__ import annotations

import io
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image

from dlhpc.data.sources import open_dataset
from dlhpc.registry.artifact import Artifact
from dlhpc.spec.data import DigitsSpec
from tests.serving.asgi import body

CLIENTS = 4
"""As many as the test server lets in at a time."""
IMAGES = 64


class Load:
    """What the clients saw."""

    def __init__(self, url: str, artifacts: Sequence[Artifact]) -> None:
        self.faults: list[str] = []
        self.answered: Counter[str] = Counter()
        """Replies by the digest that they name."""
        self._url = url
        self._is_over = threading.Event()
        pixels, _ = open_dataset(DigitsSpec(), artifacts[0].manifest.run.model).read("test", np.arange(IMAGES))
        self._bodies = [body(_png(image)) for image in pixels]
        self._offline = {f"sha256:{each.digest}": each.predictor("flax")(pixels) for each in artifacts}
        rows = list(self._offline.values())
        assert all(np.abs(rows[0] - other).max(axis=1).min() > 1e-3 for other in rows[1:])  # or nothing would show

    def ask(self, first: int) -> None:
        """One client, until it is over."""
        with httpx.Client(base_url=self._url, trust_env=False, timeout=60.0) as client:
            number = first
            while not self._is_over.is_set():
                number = (number + 1) % IMAGES
                try:
                    answer = client.post("/predict", content=self._bodies[number])
                except httpx.HTTPError as error:
                    self.faults.append(repr(error))
                    continue
                self._compare(answer, number)

    def _compare(self, answer: httpx.Response, number: int) -> None:
        if answer.status_code != 200:
            self.faults.append(f"{answer.status_code}: {answer.text}")
            return
        reply = answer.json()
        expected = self._offline[reply["digest"]][number]
        if not np.allclose(list(reply["probabilities"].values()), expected, rtol=0, atol=1e-6):
            self.faults.append(f"{reply['model']} gave {reply['probabilities']}, expected {expected.tolist()}")
        self.answered[reply["digest"]] += 1

    def until_answered_by(self, artifact: Artifact, count: int = CLIENTS, seconds: float = 60.0) -> None:
        """Wait for so many more replies of a version."""
        digest, end = f"sha256:{artifact.digest}", time.monotonic() + seconds
        before = self.answered[digest]
        while self.answered[digest] < before + count:
            assert time.monotonic() < end, f"no reply of {artifact.digest}: {self.answered}, {self.faults[:3]}"
            time.sleep(0.01)

    def stop(self) -> None:
        """Let the clients end."""
        self._is_over.set()


@contextmanager
def under_load(url: str, artifacts: Sequence[Artifact]) -> Iterator[Load]:
    """Clients that ask while this lasts; only these versions may answer."""
    load = Load(url, artifacts)
    threads = [threading.Thread(target=load.ask, args=(IMAGES // CLIENTS * each,)) for each in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stop()
        for thread in threads:
            thread.join(60.0)


def _png(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image[..., 0]).save(stream, "PNG")
    return stream.getvalue()
