"""The HTTP clients of a dlhpc server. They need no framework, and nothing else of dlhpc but the wire format."""

from dlhpc.client.async_client import AsyncClient
from dlhpc.client.client import Client, Outcome
from dlhpc.client.images import ImageLike
from dlhpc.client.replies import RequestError, UnreachableError
from dlhpc.spec.wire import PredictReply

__all__ = ["AsyncClient", "Client", "ImageLike", "Outcome", "PredictReply", "RequestError", "UnreachableError"]
