"""The HTTP client of a dlhpc server. Needs no framework, and nothing else of dlhpc but the wire format."""

from dlhpc.client.client import Client, ImageLike, RequestError

__all__ = ["Client", "ImageLike", "RequestError"]
