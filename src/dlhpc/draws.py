"""Counter-based random numbers: the same bits in numpy, JAX and torch.

A draw is a pure function of integers (seed, step, layer, row, column ...), so it does not depend on how work is
cut into batches, devices or processes, and nothing has to be saved to go on after an interruption. The generator
chains the 32-bit finaliser of MurmurHash3 (Appleby 2011) over the integers; the arithmetic is written once on a
tiny namespace.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

MASK32 = 0xFFFFFFFF
GOLDEN = 0x9E3779B9
SAMPLED_LABELS = 0xA0000000
"""In a layer's place: the draws of labels for a Hessian estimate."""
PROBES = 0xB0000000
"""In a layer's place, plus the parameter's number in the table: the random vectors of a Hessian estimate."""


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

    def cast(self, x: Any, dtype: Any) -> Any:
        """In another floating type."""
        ...


class Functions(Protocol):
    """Elementary functions of one array library."""

    def sqrt(self, x: Any, /) -> Any: ...
    def log(self, x: Any, /) -> Any: ...
    def cos(self, x: Any, /) -> Any: ...


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

    def cast(self, x: Any, dtype: Any) -> Any:
        return x.astype(dtype)


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


def normal(ns: Words, functions: Functions, dtype: Any, *counters: Any) -> Any:
    """Standard normal numbers of a floating type by Box and Muller (1958): two uniform draws each."""
    radius = functions.sqrt(-2.0 * functions.log(_open_unit(ns, dtype, *counters, 0)))
    return radius * functions.cos(2.0 * math.pi * _open_unit(ns, dtype, *counters, 1))


def gumbel(ns: Words, functions: Functions, dtype: Any, *counters: Any) -> Any:
    """Standard Gumbel numbers: the class that maximises logit + gumbel is a draw from softmax(logits)."""
    return -functions.log(-functions.log(_open_unit(ns, dtype, *counters)))


def _open_unit(ns: Words, dtype: Any, *counters: Any) -> Any:
    """Uniform in (0, 1): 2**24 values from 2**-25 to 1 - 2**-25 (the last rounds to 1 - 2**-24 in float32)."""
    return ns.cast(uniform(ns, *counters), dtype) * (1.0 - 2.0**-24) + 2.0**-25


NUMPY = NumpyWords()
