"""`dlhpc` whose replicas' models take PASS_S longer for every pass, as a busy accelerator would.

`python -m tests.serving.slow_server serve ...`. Everything else is the real thing; the wait is in the test's own
subclass of the replica, since the server has no setting to be slow.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dlhpc.cli.main import main
from dlhpc.serving import serve_ray
from dlhpc.serving.slots import Slot

PASS_S = 0.02


class SlowReplica(serve_ray.RayReplica):
    """Loads models that are slow."""

    def __init__(self, *arguments: Any) -> None:
        begin = super().__init__
        # Ray sends this class and its base by value, so that the base's names are its own and not the module's.
        names = begin.__func__.__globals__  # type: ignore[attr-defined]
        load, pass_s = names["load_slot"], PASS_S

        def slowly(spec: Any, info: Any) -> Slot:
            slot = load(spec, info)

            def predict(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
                time.sleep(pass_s)
                return slot.predictor(images)

            return replace(slot, predictor=predict)

        names["load_slot"] = slowly
        begin(*arguments)


if __name__ == "__main__":
    serve_ray.RayReplica = SlowReplica  # type: ignore[misc]
    sys.exit(main(sys.argv[1:]))
