"""Each optimizer's update rule, once: element-wise, on a tiny array namespace that numpy, JAX and torch all offer.

A rule has two halves. `coefficients` turns what changes from step to step (learning rate, decay, count) into a few
numbers; `move` takes the gradient g, the slots, the parameter x and these numbers, and returns the new slots and x,
element by element. So `move` can run on arrays of any framework, and be compiled from the same source (native.py).
Whatever looks at more than one element (norms, clipping, NaN policy) lives in the Learner, because ZeRO hands an
optimizer flat slices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, assert_never

from dlhpc.spec.optimizer import AdaBeliefSpec, AdamWSpec, AdanSpec, LionSpec, OptimizerSpec, SophiaSpec
from dlhpc.spec.run import RunSpec

Array = Any
Slots = tuple[Array, ...]
Coefficients = tuple[Any, ...]

EMA = "ema"
"""The slot of the averaged weights, where a run keeps them."""


class Scalars(NamedTuple):
    """What changes from step to step: numbers or 0-d arrays of the framework."""

    lr: Any
    """Learning rate of this parameter at this step."""
    decay: Any
    """Weight decay of this parameter; scaled by lr in the rule, 0 where the table excludes it."""
    t: Any
    """Number of this update, from 1: an int, or a 0-d array of the parameter's type."""


class Namespace(Protocol):
    """The functions that `move` needs; `numpy`, `jax.numpy` and `torch` have them all."""

    def sign(self, x: Array, /) -> Array: ...
    def sqrt(self, x: Array, /) -> Array: ...
    def clip(self, x: Array, low: float | None, high: float | None, /) -> Array: ...


class Curvature(NamedTuple):
    """How an optimizer takes up estimates of the Hessian's diagonal."""

    slot: str
    """Where their average is kept."""
    interval: int
    """Updates between estimates: before updates 1, 1 + interval, ..."""
    fold: Callable[[Array, Array], Array]
    """(average, estimate) -> average."""

    def due(self, applied: Any) -> Any:
        """Whether the update after `applied` others (a number, or a 0-d array) wants an estimate first."""
        return applied % self.interval == 0


class BoundRule(NamedTuple):
    """A rule with its constants."""

    slots: tuple[str, ...]
    """Names of the slots, each of the parameter's shape, zero at the start."""
    coefficients: Callable[[Any, Scalars], Coefficients]
    """(numpy or jax.numpy, scalars) -> numbers; on Python numbers, numbers in float64."""
    move: Callable[[Any, Array, Slots, Array, Coefficients], tuple[Slots, Array]]
    """(namespace, g, slots, x, numbers) -> (slots, x). It multiplies by numbers and never divides by them: torch
    rounds such quotients otherwise than numpy."""
    curvature: Curvature | None = None
    """For optimizers that want estimates of the Hessian."""

    def rule(self, ns: Any, g: Array, slots: Slots, x: Array, scalars: Scalars) -> tuple[Slots, Array]:
        """One update, when one namespace serves both halves."""
        return self.move(ns, g, slots, x, self.coefficients(ns, scalars))


def adamw(spec: AdamWSpec) -> BoundRule:
    """Adam's step with decoupled decay (Loshchilov & Hutter 2019, algorithm 2)."""

    def coefficients(ns: Any, h: Scalars) -> Coefficients:
        rate = h.lr / _one_minus_power(ns, spec.b1, h.t)  # of m_hat, without a pass over m
        return rate, 1.0 / _one_minus_power(ns, spec.b2, h.t), 1.0 - h.lr * h.decay

    def move(ns: Any, g: Array, slots: Slots, x: Array, numbers: Coefficients) -> tuple[Slots, Array]:
        (m, v), (rate, v_scale, shrink) = slots, numbers
        m = spec.b1 * m + (1.0 - spec.b1) * g
        v = spec.b2 * v + (1.0 - spec.b2) * (g * g)
        x = x * shrink - rate * (m / (ns.sqrt(v * v_scale) + spec.eps))
        return (m, v), x

    return BoundRule(("m", "v"), coefficients, move)


def lion(spec: LionSpec) -> BoundRule:
    """Step along the sign of an interpolation between momentum and gradient (Chen et al. 2023, algorithm 2)."""

    def coefficients(ns: Any, h: Scalars) -> Coefficients:
        return h.lr, 1.0 - h.lr * h.decay

    def move(ns: Any, g: Array, slots: Slots, x: Array, numbers: Coefficients) -> tuple[Slots, Array]:
        (m,), (rate, shrink) = slots, numbers
        x = x * shrink - rate * ns.sign(spec.b1 * m + (1.0 - spec.b1) * g)
        return (spec.b2 * m + (1.0 - spec.b2) * g,), x

    return BoundRule(("m",), coefficients, move)


def adan(spec: AdanSpec) -> BoundRule:
    """Nesterov momentum from the differences of gradients (Xie et al. 2022, algorithm 1); b = 1 - beta."""

    def coefficients(ns: Any, h: Scalars) -> Coefficients:
        m_part, v_part, n_part = (_one_minus_power(ns, b, h.t) for b in (spec.b1, spec.b2, spec.b3))
        had_previous = ns.clip(h.t - 1, 0, 1)  # the first difference is zero
        scales = had_previous, h.lr / m_part, h.lr * spec.b2 / v_part, 1.0 / n_part
        if spec.decay == "prox":
            return *scales, 1.0 / (1.0 + h.lr * h.decay)
        return *scales, 1.0 - h.lr * h.decay

    def move(ns: Any, g: Array, slots: Slots, x: Array, numbers: Coefficients) -> tuple[Slots, Array]:
        (m, v, n, previous), (had_previous, m_rate, v_rate, n_scale, shrink) = slots, numbers
        d = had_previous * (g - previous)
        m = spec.b1 * m + (1.0 - spec.b1) * g
        v = spec.b2 * v + (1.0 - spec.b2) * d
        ahead = g + spec.b2 * d
        n = spec.b3 * n + (1.0 - spec.b3) * (ahead * ahead)
        step = (m_rate * m + v_rate * v) / (ns.sqrt(n * n_scale) + spec.eps)
        x = (x - step) * shrink if spec.decay == "prox" else x * shrink - step
        return (m, v, n, g), x

    return BoundRule(("m", "v", "n", "previous"), coefficients, move)


def adabelief(spec: AdaBeliefSpec) -> BoundRule:
    """Adam over the deviation of gradients from their average (Zhuang et al. 2020, algorithm 2)."""

    def coefficients(ns: Any, h: Scalars) -> Coefficients:
        rate = h.lr / _one_minus_power(ns, spec.b1, h.t)
        if spec.rectify:
            rate = rate * _rectification(ns, spec.b2, h.t)
        return rate, 1.0 / _one_minus_power(ns, spec.b2, h.t), 1.0 - h.lr * h.decay

    def move(ns: Any, g: Array, slots: Slots, x: Array, numbers: Coefficients) -> tuple[Slots, Array]:
        (m, s), (rate, s_scale, shrink) = slots, numbers
        m = spec.b1 * m + (1.0 - spec.b1) * g
        deviation = g - m
        s = spec.b2 * s + (1.0 - spec.b2) * (deviation * deviation) + spec.eps
        x = x * shrink - rate * (m / (ns.sqrt(s * s_scale) + spec.eps))
        return (m, s), x

    return BoundRule(("m", "s"), coefficients, move)


def sophia(spec: SophiaSpec) -> BoundRule:
    """Momentum over the diagonal of the Hessian, clipped element by element (Liu et al. 2023, algorithm 3)."""
    gamma = spec.curvature_scale

    def coefficients(ns: Any, h: Scalars) -> Coefficients:
        return h.lr, 1.0 - h.lr * h.decay

    def move(ns: Any, g: Array, slots: Slots, x: Array, numbers: Coefficients) -> tuple[Slots, Array]:
        (m, h), (rate, shrink) = slots, numbers
        m = spec.b1 * m + (1.0 - spec.b1) * g
        x = x * shrink - rate * ns.clip(m / ns.clip(gamma * h, spec.eps, None), -1.0, 1.0)
        return (m, h), x

    def fold(h: Array, estimate: Array) -> Array:
        return spec.b2 * h + (1.0 - spec.b2) * estimate

    return BoundRule(("m", "h"), coefficients, move, Curvature("h", spec.interval, fold))


def averaged(bound: BoundRule, decay: float) -> BoundRule:
    """The rule with one more slot, `ema`: the parameters' exponential average, corrected for its start at zero.

    Its weights are decay^(t-i) / sum: after the first update it is the parameters themselves.
    """

    def coefficients(ns: Any, h: Scalars) -> Coefficients:
        return *bound.coefficients(ns, h), (1.0 - decay) / _one_minus_power(ns, decay, h.t)

    def move(ns: Any, g: Array, slots: Slots, x: Array, numbers: Coefficients) -> tuple[Slots, Array]:
        (*own, ema), (*its, share) = slots, numbers
        moved, x = bound.move(ns, g, tuple(own), x, tuple(its))
        return (*moved, ema + share * (x - ema)), x

    return BoundRule((*bound.slots, EMA), coefficients, move, bound.curvature)


def bind(spec: OptimizerSpec) -> BoundRule:
    """The rule that a spec asks for."""
    match spec:
        case AdamWSpec():
            return adamw(spec)
        case LionSpec():
            return lion(spec)
        case AdanSpec():
            return adan(spec)
        case AdaBeliefSpec():
            return adabelief(spec)
        case SophiaSpec():
            return sophia(spec)
        case _:
            assert_never(spec)


def bind_run(run: RunSpec) -> BoundRule:
    """The rule that a run trains with: its optimizer's, and the averaged weights with it where the run wants them."""
    decay = run.training.ema_decay
    return bind(run.optimizer) if decay is None else averaged(bind(run.optimizer), decay)


def _one_minus_power(ns: Any, base: float, t: Any) -> Any:
    """1 - base**t. On a float32 array the plain form is off by 1e-5, because .999 is rounded before it is cancelled."""
    if isinstance(t, int) or base == 0.0:
        return 1.0 - base**t
    return -ns.expm1(t * math.log(base))


def _rectification(ns: Any, b2: float, t: Any) -> Any:
    """RAdam's r_t (Liu et al. 2020, algorithm 2), and 0 while rho_t <= 4 leaves the variance undefined.

    rho_t = rho_inf - 2 t b2^t / (1 - b2^t) is computed as (rho_inf - 2/a) + (2/a) (1 - y / (e^y - 1)) with
    a = -log b2 and y = a t, because in float32 the two large terms would cancel.
    """
    limit, a = 2.0 / (1.0 - b2) - 1.0, -math.log(b2)
    y, square = a * t, a * a * t * t
    series = 1.0 / 30240.0 - square * (1.0 / 1209600.0 - square / 47900160.0)  # 1 - y / (e^y - 1) for small y
    series = 0.5 * y - square * (1.0 / 12.0 - square * (1.0 / 720.0 - square * series))
    rho = (limit - 2.0 / a) + 2.0 / a * ns.where(y < 0.3, series, 1.0 + y * ns.exp(-y) / ns.expm1(-y))
    ratio = (rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho)
    return ns.sqrt(ns.where(rho > 4.0, ratio, 0.0))
