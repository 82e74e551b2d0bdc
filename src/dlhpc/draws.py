"""Counter-based random numbers: the same bits in numpy, JAX and torch.

A draw is a pure function of integers (seed, step, layer, row, column ...), so it does not depend on how work is
cut into batches, devices or processes, and nothing has to be saved to go on after an interruption. The generator
chains the 32-bit finaliser of MurmurHash3 (Appleby 2011) over the integers; the arithmetic is written once on a
tiny namespace.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

MASK32 = 0xFFFFFFFF
GOLDEN = 0x9E3779B9


class Words(Protocol):
    """Arithmetic modulo 2**32 of one array library."""

    def word(self, x: Any) -> Any:
        """Integers as 32-bit words."""
        ...

    def multiply(self, x: Any, constant: int) -> Any:
        """Product modulo 2**32."""
        ...

    def add(self, x: Any, y: Any) -> Any:
        """Sum modulo 2**32."""
        ...

    def unit(self, x: Any) -> Any:
        """The upper 24 bits as a float32 in [0, 1)."""
        ...


class NumpyWords:
    """numpy's uint32 wraps by itself."""

    def word(self, x: Any) -> Any:
        return (np.asarray(x).astype(np.int64) & MASK32).astype(np.uint32)

    def multiply(self, x: Any, constant: int) -> Any:
        with np.errstate(over="ignore"):  # numpy warns of the wanted wrap when x is a scalar
            return x * np.uint32(constant)

    def add(self, x: Any, y: Any) -> Any:
        with np.errstate(over="ignore"):
            return x + y

    def unit(self, x: Any) -> Any:
        return (x >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def mix(ns: Words, x: Any) -> Any:
    """Spread every input bit over the whole word (fmix32)."""
    x = x ^ (x >> 16)
    x = ns.multiply(x, 0x85EBCA6B)
    x = x ^ (x >> 13)
    x = ns.multiply(x, 0xC2B2AE35)
    return x ^ (x >> 16)


def bits(ns: Words, *counters: Any) -> Any:
    """32 random bits per element of the broadcast counters (integers or integer arrays), in their order."""
    state = mix(ns, ns.add(ns.word(counters[0]), ns.word(GOLDEN)))
    for counter in counters[1:]:
        state = mix(ns, ns.add(ns.multiply(state, 0x01000193), ns.word(counter)))
    return state


def uniform(ns: Words, *counters: Any) -> Any:
    """Float32 in [0, 1), a multiple of 2**-24, per element of the broadcast counters."""
    return ns.unit(bits(ns, *counters))


NUMPY = NumpyWords()
