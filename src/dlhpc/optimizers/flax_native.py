"""A rule as machine code inside a JAX program on a CPU: one pass over memory, in the donated buffers.

XLA's own program updates parameter and slots in separate loops and keeps a copy of every slot that two of them read;
this is a custom call around the code of native.py. It is compiled once a machine (seconds: XLA's headers are large), so
it is meant for models that are large enough to notice.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.ffi
import jax.numpy as jnp
from jax import Array

from dlhpc.optimizers import native
from dlhpc.optimizers.rules import BoundRule

LARGE = 1 << 20
"""Elements from which on the custom call pays."""

_HANDLER = """
#include <vector>
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

// Arguments: all x and slots, which share the results' memory; then every g; then the numbers, a row for each x.
static ffi::Error update(ffi::RemainingArgs args, ffi::RemainingRets rets, int64_t width, int64_t threads) {
    const size_t count = rets.size() / (width - 1);
    std::vector<int64_t> sizes(count);
    std::vector<T *> pointers;
    for (size_t k = 0; k < count; k++) {
        auto g = args.get<ffi::AnyBuffer>(rets.size() + k);
        sizes[k] = g->element_count();
        for (int64_t column = 0; column < width - 1; column++) {
            if (column == 1) pointers.push_back(static_cast<T *>(g->untyped_data()));
            auto written = rets.get<ffi::AnyBuffer>(k * (width - 1) + column);
            pointers.push_back(static_cast<T *>((*written)->untyped_data()));
        }
        if (width == 2) pointers.push_back(static_cast<T *>(g->untyped_data()));  // a rule without slots
    }
    auto numbers = args.get<ffi::AnyBuffer>(rets.size() + count);
    dlhpc_update(count, sizes.data(), pointers.data(), static_cast<const T *>(numbers->untyped_data()), threads);
    return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    Update, update,
    ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attr<int64_t>("width").Attr<int64_t>("threads"));
"""


def is_worthwhile(leaves: Sequence[Array]) -> bool:
    """Whether arrays (or their shapes) live on the only device, a CPU, in one format, and are large together."""
    formats = {leaf.dtype for leaf in leaves}
    return (
        sum(leaf.size for leaf in leaves) >= LARGE
        and formats <= {jnp.dtype("float32"), jnp.dtype("float64")}
        and len(formats) == 1
        and jax.default_backend() == "cpu"
        and jax.device_count() == 1
    )


def update(
    bound: BoundRule, xs: Sequence[Array], gs: Sequence[Array], slots: Sequence[Sequence[Array]], numbers: Array
) -> tuple[list[Array], list[list[Array]]] | None:
    """New parameters and slots (a list for each leaf) in a traced program; None where no compiler makes the code.

    `numbers` holds a row of the rule's coefficients for every leaf. Derivatives are those of the rule.
    """
    target = _target(native.c_source(bound, "float" if xs[0].dtype == jnp.float32 else "double"))
    if target is None:
        return None
    width = 2 + len(bound.slots)

    def call(written: list[Array], gs: list[Array], numbers: Array) -> list[Array]:
        shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in written]
        aliases = {index: index for index in range(len(written))}
        made = jax.ffi.ffi_call(target, shapes, input_output_aliases=aliases, vmap_method="sequential")
        return list(made(*written, *gs, numbers, width=width, threads=len(os.sched_getaffinity(0))))

    def by_rule(written: list[Array], gs: list[Array], numbers: Array) -> list[Array]:
        moved: list[Array] = []
        for k, g in enumerate(gs):
            x, *own = written[k * (width - 1) : (k + 1) * (width - 1)]
            new_slots, new_x = bound.move(jnp, g, tuple(own), x, tuple(numbers[k]))
            moved += [new_x, *new_slots]
        return moved

    differentiable = jax.custom_jvp(call)
    differentiable.defjvp(lambda primals, tangents: jax.jvp(by_rule, primals, tangents))
    written = [array for x, own in zip(xs, slots, strict=True) for array in (x, *own)]
    moved = differentiable(written, list(gs), numbers)
    rows = [moved[start : start + width - 1] for start in range(0, len(moved), width - 1)]
    return [row[0] for row in rows], [row[1:] for row in rows]


@functools.cache
def _target(source: str) -> str | None:
    """The name under which XLA knows the rule's code."""
    source += _HANDLER
    library: Any = native.load(source, ("-std=c++17", "-w", "-I", jax.ffi.include_dir()))
    if library is None:
        return None
    name = f"dlhpc_{hashlib.sha256(source.encode()).hexdigest()[:16]}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(library.Update), platform="cpu")
    return name
