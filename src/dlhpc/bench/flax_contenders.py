"""Steps of JAX optimizers to compare: this system's and optax's own, compiled with donated arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlhpc.optimizers.flax_optimizers import RuleOptimizer
from dlhpc.optimizers.rules import bind
from dlhpc.spec.optimizer import OptimizerSpec

Step = Callable[[], None]

LR = 1e-6
OPTAX: dict[str, Callable[[], Any]] = {
    "adamw": lambda: optax.adamw(LR, weight_decay=0.01),
    "lion": lambda: optax.lion(LR, weight_decay=0.01),
    "adan": lambda: optax.adan(LR, weight_decay=0.02),
    "adabelief": lambda: optax.adabelief(LR),
    "sophia": lambda: optax.contrib.sophia(LR, weight_decay=0.01, update_interval=1 << 30),
}


def steps(spec: OptimizerSpec, sizes: Sequence[int]) -> dict[str, Step]:
    """Implementation -> one step over float32 parameters of these sizes."""
    keys = jax.random.split(jax.random.key(0), len(sizes))
    grads = [jax.random.normal(key, (size,)) for key, size in zip(keys, sizes, strict=True)]
    # One element each measures the way of large ones: so it is not left to their number.
    rule, chain = RuleOptimizer(bind(spec), native=jax.default_backend() == "cpu"), OPTAX[spec.name]()

    def ours(carry: Any, grads: Any) -> Any:
        params, state = carry
        return rule.step(grads, state, params, lr=LR, decay=spec.weight_decay)

    def theirs(carry: Any, grads: Any) -> Any:
        params, state = carry
        extra = {"obj_fn": lambda params: sum(jnp.vdot(x, x) for x in params)} if spec.name == "sophia" else {}
        updates, state = chain.update(grads, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return {"dlhpc": _Donating(ours, rule.init, grads), "optax": _Donating(theirs, chain.init, grads)}


class _Donating:
    """A compiled update that is given the last one's results to reuse, and waited for."""

    def __init__(self, update: Callable[[Any, Any], Any], init: Callable[[Any], Any], grads: Any) -> None:
        params = [gradient * 0.01 for gradient in grads]
        self._carry, self._grads = (params, init(params)), grads
        self.compiled = jax.jit(update, donate_argnums=0).lower(self._carry, grads).compile()

    def __call__(self) -> None:
        self._carry = self.compiled(self._carry, self._grads)
        wait(self._carry)


def temporary_bytes(step: _Donating) -> int | None:
    """Memory that the step takes besides its arguments and results, as XLA planned it."""
    analysis: Any = step.compiled.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)


def wait(arrays: Any) -> None:
    """Until the device has made them."""
    for leaf in jax.tree.leaves(arrays):
        leaf.block_until_ready()


def copy(elements: int) -> tuple[Step, int]:
    """A copy of so many float32, and the bytes that it reads and writes: on a CPU by all its threads."""
    if jax.default_backend() != "cpu":
        source = jnp.ones(elements)
        negate = jax.jit(jnp.negative)
        return lambda: wait(negate(source)), 8 * elements
    threads = len(os.sched_getaffinity(0))
    sources, targets = (np.array_split(np.ones(elements, np.float32), threads) for _ in range(2))
    pool = ThreadPoolExecutor(threads)

    def run() -> None:
        for _ in pool.map(np.copyto, targets, sources):
            continue

    return run, 8 * elements
