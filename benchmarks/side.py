"""What both sides of compare_registries.py do alike: obey the parent, and fork publishers that are killed."""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

IMAGE_SHAPE = (32, 32, 1)
CLASSES = 10
HIDDEN = {"large": (1280, 900), "small": (8,)}
"""Widths of the hidden layers: 9.9 MB of float32, and 33 kB."""
IMAGES = np.random.default_rng(0).random((2, *IMAGE_SHAPE), np.float32)
"""What a version is asked, before and after an attack."""


def serve(actions: dict[str, Callable[..., Any]]) -> None:
    """Read `[action, *arguments]` as JSON lines from stdin; answer each by a line with its value, or its error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no reply
    for line in sys.stdin:
        action, *arguments = json.loads(line)
        try:
            reply = {"value": actions[action](*arguments)}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


def kill_publishers(
    make: Callable[[int], Any], publish: Callable[[int, Any], object], kills: int, longest_s: float
) -> int:
    """Fork publishers one after another, each killed (-9) at a random moment; how many were at work then.

    What they publish is made before they begin, so that a kill meets a publication and not its preparation.
    """
    draw, killed = random.Random(0), 0
    for number in range(kills):
        made = {seed: make(seed) for seed in range(4 * number, 4 * (number + 1))}
        child = os.fork()
        if child == 0:
            for seed, each in made.items():
                publish(seed, each)
            os._exit(0)
        time.sleep(draw.uniform(0, longest_s))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    return killed
