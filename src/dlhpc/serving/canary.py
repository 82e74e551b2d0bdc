"""Which requests a canary answers: always the same ones, as long as its weight does not sink."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from dlhpc.serving.exchange import Refusal, Request
from dlhpc.serving.plan import PlannedModel
from dlhpc.spec.wire import CANARY

_HEADER: Final = CANARY.encode()


def takes_canary(model: PlannedModel, request: Request) -> bool:
    """Whether the canary of a model, which it must have, answers a request.

    The request's header decides, `always` or `never`; without one the hash of its id, or of its API key's.
    """
    given = request.header(_HEADER)
    if given is not None:
        if given not in (b"always", b"never"):
            raise Refusal("invalid_request", f"{CANARY}: {given.decode('latin-1')!r} came, expected always or never")
        return given == b"always"
    assert model.canary is not None
    by_key = model.canary.by == "key" and request.key is not None
    who = request.key.id if by_key and request.key is not None else request.id
    return position(model.name, who) < model.weight


def position(model: str, who: str) -> float:
    """Where an id lies in 0..1: below the weight of a model's canary it is the canary's."""
    return int.from_bytes(blake2b(f"{model}\0{who}".encode(), digest_size=7).digest()) / 2**56
