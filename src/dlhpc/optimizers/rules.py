"""Each optimizer's update rule, once: element-wise, on a tiny array namespace that numpy, JAX and torch all offer.

A rule takes the gradient g, the slots, the parameter x and the step's scalars, and returns the new slots and x. It
may spend the old ones: what the sums below return is the new value, perhaps in the old one's memory.
Whatever looks at more than one element (norms, clipping, NaN policy) lives in the Learner, because ZeRO hands an
optimizer flat slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, assert_never

from dlhpc.spec.optimizer import AdamWSpec, LionSpec, OptimizerSpec

Array = Any
Slots = tuple[Array, ...]


class Scalars(NamedTuple):
    """What changes from step to step: numbers or 0-d arrays of the framework."""

    lr: Any
    """Learning rate of this parameter at this step."""
    decay: Any
    """Weight decay of this parameter; scaled by lr in the rule, 0 where the table excludes it."""
    t: Any
    """Number of this update, from 1: an int, or a 0-d array of the parameter's type."""


class Namespace(Protocol):
    """The functions the rules need; `numpy`, `jax.numpy` and `torch` have them all."""

    def sign(self, x: Array, /) -> Array: ...
    def sqrt(self, x: Array, /) -> Array: ...
    def expm1(self, x: Array, /) -> Array: ...


Rule = Callable[[Any, Array, Slots, Array, Scalars], tuple[Slots, Array]]


class BoundRule(NamedTuple):
    """A rule with its constants: `rule(ns, g, slots, x, scalars) -> (slots, x)`."""

    slots: tuple[str, ...]
    """Names of the slots, each of the parameter's shape, zero at the start."""
    rule: Rule


def adamw(spec: AdamWSpec) -> BoundRule:
    """Adam's step with decoupled decay (Loshchilov & Hutter 2019, algorithm 2)."""

    def rule(ns: Any, g: Array, slots: Slots, x: Array, h: Scalars) -> tuple[Slots, Array]:
        m, v = slots
        m = _ema(ns, m, g, spec.b1)
        v = _ema_of_square(ns, v, g, spec.b2)
        lr_hat = h.lr / _one_minus_power(ns, spec.b1, h.t)  # of m_hat, without a pass over m
        below = _root_of_ratio_plus(ns, v, _one_minus_power(ns, spec.b2, h.t), spec.eps)
        x = _shrink_minus_ratio(ns, x, 1.0 - h.lr * h.decay, lr_hat, m, below)
        return (m, v), x

    return BoundRule(("m", "v"), rule)


def lion(spec: LionSpec) -> BoundRule:
    """Step along the sign of an interpolation between momentum and gradient (Chen et al. 2023, algorithm 2)."""

    def rule(ns: Any, g: Array, slots: Slots, x: Array, h: Scalars) -> tuple[Slots, Array]:
        (m,) = slots
        c = spec.b1 * m + (1.0 - spec.b1) * g
        x = _shrink_minus(ns, x, 1.0 - h.lr * h.decay, h.lr, ns.sign(c))
        return (_ema(ns, m, g, spec.b2),), x

    return BoundRule(("m",), rule)


def bind(spec: OptimizerSpec) -> BoundRule:
    """The rule that a spec asks for."""
    match spec:
        case AdamWSpec():
            return adamw(spec)
        case LionSpec():
            return lion(spec)
        case _:
            assert_never(spec)


def _one_minus_power(ns: Any, base: float, t: Any) -> Any:
    """1 - base**t. On a float32 array the plain form is off by 1e-5, because .999 is rounded before it is cancelled."""
    if isinstance(t, int) or base == 0.0:
        return 1.0 - base**t
    return -ns.expm1(t * math.log(base))


# Sums that a namespace may offer whole, as torch does: in place, in fewer passes over memory.


def _ema(ns: Any, old: Array, new: Array, keep: float) -> Array:
    """keep * old + (1 - keep) * new."""
    whole = getattr(ns, "ema", None)
    return keep * old + (1.0 - keep) * new if whole is None else whole(old, new, keep)


def _ema_of_square(ns: Any, old: Array, new: Array, keep: float) -> Array:
    """keep * old + (1 - keep) * new**2."""
    whole = getattr(ns, "ema_of_square", None)
    return keep * old + (1.0 - keep) * (new * new) if whole is None else whole(old, new, keep)


def _root_of_ratio_plus(ns: Any, above: Array, below: Any, eps: float) -> Array:
    """sqrt(above / below) + eps."""
    whole = getattr(ns, "root_of_ratio_plus", None)
    return ns.sqrt(above / below) + eps if whole is None else whole(above, below, eps)


def _shrink_minus(ns: Any, x: Array, shrink: Any, rate: Any, step: Array) -> Array:
    """x * shrink - rate * step."""
    whole = getattr(ns, "shrink_minus", None)
    return x * shrink - rate * step if whole is None else whole(x, shrink, rate, step)


def _shrink_minus_ratio(ns: Any, x: Array, shrink: Any, rate: Any, above: Array, below: Array) -> Array:
    """x * shrink - rate * above / below."""
    whole = getattr(ns, "shrink_minus_ratio", None)
    return x * shrink - rate * (above / below) if whole is None else whole(x, shrink, rate, above, below)
