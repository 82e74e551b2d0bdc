"""Which versions are in memory: as many as fit. The one that nobody has asked for longest makes room for another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from dlhpc.errors import DlhpcError
from dlhpc.serving.exchange import Refusal
from dlhpc.serving.guards.admission import RETRY_AFTER
from dlhpc.serving.slots import Slot
from dlhpc.spec.wire import ModelInfo

Load = Callable[[ModelInfo], Slot]
"""Loads a version and warms it up; blocks."""
_log = logging.getLogger(__name__)


class Resident(Protocol):
    """What holds a version, or could."""

    info: ModelInfo
    slot: Slot | None
    in_flight: int
    last_used: float

    def enter(self) -> None:
        """Keep it until `leave` is called."""
        ...

    def leave(self) -> None:
        """Let it go as far as this caller is concerned."""
        ...


class NoRoomError(DlhpcError):
    """What is in memory is in use, and another version does not fit beside it."""


class Residence:
    """Loads versions one at a time, on a thread of its own, and lets go of idle ones when it must.

    All methods but `load_now` are called on one event loop. Bytes are those of the weights: a framework adds its own.
    """

    def __init__(self, load: Load, max_bytes: int | None, evicted: Callable[[str], None]) -> None:
        """`evicted` is told the digest of each version that makes room."""
        self._load = load
        self._max_bytes = max_bytes
        self._evicted = evicted
        self._thread = ThreadPoolExecutor(1, "load")
        self._turn = asyncio.Lock()
        self._residents: list[Resident] = []
        self._coming: dict[int, asyncio.Task[None]] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes of all weights in memory."""
        return sum(each.info.weight_bytes for each in self._residents)

    def has_room(self, info: ModelInfo) -> bool:
        """Whether a version fits beside what is there."""
        return self._max_bytes is None or self.used_bytes + info.weight_bytes <= self._max_bytes

    def load_now(self, resident: Resident) -> None:
        """Load a version before there is an event loop. Raises what loading does."""
        resident.slot = self._load(resident.info)
        self._residents.append(resident)

    async def bring(self, resident: Resident, spared: Collection[Resident] = ()) -> None:
        """Have a version in memory; who asks for it meanwhile waits for the same.

        It may be used until nothing is in flight there. Idle versions go for it, but none that is `spared`.
        Raises NoRoomError, and what loading does.
        """
        if resident.slot is not None:
            return
        task = self._coming.get(id(resident))
        if task is None:
            task = self._coming[id(resident)] = asyncio.create_task(self._bring(resident, spared))
            task.add_done_callback(lambda done: self._coming.pop(id(resident)))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask
        await asyncio.shield(task)  # who leaves must not end it for the others

    async def serve(self, resident: Resident) -> None:
        """As `bring`, for a request: raises the Refusal that it gets when that is not possible now."""
        try:
            await self.bring(resident)
        except NoRoomError as error:
            raise Refusal("overloaded", f"{error}: try again in a second", headers=RETRY_AFTER) from error
        except (DlhpcError, OSError) as error:
            _log.error("%s: cannot be loaded again: %s", resident.info.name, error)
            raise Refusal(
                "unavailable", f"{resident.info.name} cannot be loaded now; the log says why", headers=RETRY_AFTER
            ) from error

    def forget(self, resident: Resident) -> None:
        """Let go of a version, if it is there."""
        resident.slot = None
        if resident in self._residents:
            self._residents.remove(resident)

    async def _bring(self, resident: Resident, spared: Collection[Resident]) -> None:
        resident.enter()  # whoever asked for it may leave before it is there
        try:
            async with self._turn:
                self._make_room(resident.info, spared)
                loop = asyncio.get_running_loop()
                resident.slot = await loop.run_in_executor(self._thread, self._load, resident.info)
                self._residents.append(resident)
        finally:
            resident.leave()

    def _make_room(self, info: ModelInfo, spared: Collection[Resident]) -> None:
        while not self.has_room(info):
            idle = [each for each in self._residents if not each.in_flight and each not in spared]
            if not idle:
                raise NoRoomError(
                    f"{info.name} ({info.weight_bytes} bytes) does not fit beside the versions in use "
                    f"({self.used_bytes} of {self._max_bytes} bytes, models_max_gb)"
                )
            oldest = min(idle, key=lambda each: each.last_used)
            self.forget(oldest)
            self._evicted(oldest.info.digest)
            _log.info("%s: makes room for %s", oldest.info.name, info.name)
