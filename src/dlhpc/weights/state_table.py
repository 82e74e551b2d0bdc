"""The rows of a training state: the common form in which a run is saved, and taken up again in either framework."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dlhpc.weights.table import Param

CONSUMED = "counter/consumed"
"""Batches taken from the plan: drives data order and schedules."""
APPLIED = "counter/applied"
"""Updates made: the optimizer's t."""


@dataclass(frozen=True)
class StateRow:
    """One named array of a training state."""

    name: str
    shape: tuple[int, ...]


def param_key(name: str) -> str:
    """Key of a parameter in a training state."""
    return f"param/{name}"


def slot_key(slot: str, name: str) -> str:
    """Key of an optimizer's slot for a parameter."""
    return f"slot/{slot}/{name}"


def state_table(params: tuple[Param, ...], slots: tuple[str, ...]) -> Iterator[StateRow]:
    """Every row of the training state of a model under an optimizer with these slots."""
    for row in params:
        yield StateRow(param_key(row.name), row.shape)
    for slot in slots:
        for row in params:
            yield StateRow(slot_key(slot, row.name), row.shape)
    yield StateRow(CONSUMED, ())
    yield StateRow(APPLIED, ())
