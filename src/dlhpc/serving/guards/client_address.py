"""The address that a request is counted for: the peer's, or what a trusted proxy says of whom it speaks for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from dlhpc.serving.exchange import Request

Network = IPv4Network | IPv6Network


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Networks as the spec writes them."""
    return tuple(ip_network(text) for text in texts)


def client_of(request: Request, trusted: tuple[Network, ...]) -> str:
    """Whom a request is counted for: its API key, or without one the address that it comes from."""
    if request.key is not None:
        return f"key {request.key.id}"
    return client_address(request.peer, request.header(b"x-forwarded-for"), trusted)


@lru_cache(4096)
def client_address(peer: str, forwarded: bytes | None, trusted: tuple[Network, ...]) -> str:
    """Whose request it is, for a peer's address and the x-forwarded-for header that it sent.

    The header is read from its end, where the nearest proxy writes, as long as the one who wrote is trusted; anybody
    may have written what comes before. An IPv6 address stands for its /64 network, all of which one client may use.
    """
    address = _parsed(peer)
    said = forwarded.decode("latin-1").split(",") if forwarded is not None else []
    while address is not None and said and any(address in network for network in trusted):
        nearer = _parsed(said.pop().strip())
        if nearer is None:
            break
        address = nearer
    if address is None:
        return peer
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    """An address, IPv4 in IPv6 as IPv4; None for anything else."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
