"""The learners of both frameworks take the same path, and hand their whole state over to each other."""

from __future__ import annotations

import numpy as np
import pytest

from dlhpc.ports import NamedArrays
from dlhpc.spec.run import RunSpec
from tests.twins.networks import difference
from tests.twins.runs import STEPS, advance, host_batch, learner, run_spec

CNN = {
    "architecture": "cnn",
    "input_shape": (6, 5, 2),
    "num_classes": 7,
    "channels": (6, 8),
    "kernel_size": (3, 2),
    "strides": (1, 2),
    "hidden_sizes": (12,),
    "dropout_rate": 0.2,
}


def cnn_run(**changes: object) -> RunSpec:
    return RunSpec.model_validate(run_spec(**changes).canonical() | {"model": CNN})


def trained(backend: str, run: RunSpec, steps: int) -> tuple[NamedArrays, list[float], dict[str, float]]:
    """Training state, losses, and evaluation sums after so many steps from the seed."""
    with learner(backend, run) as made:
        state, losses = advance(made, run, made.init(run.seed), 0, steps)
        sums = made.evaluate(state, made.place(host_batch(run, 1000)))
        return made.snapshot(state, "training"), losses, {name: float(value) for name, value in sums.items()}


def greatest_difference(a: NamedArrays, b: NamedArrays) -> float:
    assert a.keys() == b.keys()
    return max(difference(a[name], b[name]) for name in b)


@pytest.mark.parametrize(
    "run",
    [run_spec(), cnn_run(), run_spec(optimizer={"name": "lion"}, training={"learning_rate": 0.0005})],
    ids=["mlp-adamw", "cnn-adamw", "mlp-lion"],
)
def test_two_hundred_steps_agree_in_float64(run: RunSpec) -> None:
    flax, flax_losses, flax_sums = trained("flax", run, STEPS)
    torch, torch_losses, torch_sums = trained("torch", run, STEPS)
    assert greatest_difference(flax, torch) <= 1e-9
    np.testing.assert_allclose(flax_losses, torch_losses, rtol=1e-9)
    assert flax_sums == pytest.approx(torch_sums, rel=1e-9)
    assert np.mean(flax_losses[-10:]) < 0.7 * np.mean(flax_losses[:10]), "it should have learned something"


def test_float32_agrees_step_by_step_within_rounding() -> None:
    run = run_spec(training={"precision": "float32"})
    flax, flax_losses, _ = trained("flax", run, 20)
    torch, torch_losses, _ = trained("torch", run, 20)
    assert all(array.dtype == np.float32 for name, array in flax.items() if not name.startswith("counter/"))
    assert greatest_difference(flax, torch) <= 1e-3
    np.testing.assert_allclose(flax_losses, torch_losses, rtol=1e-4)


def test_bfloat16_agrees_within_its_own_rounding() -> None:
    run = run_spec(training={"precision": "bfloat16"})
    _, flax_losses, _ = trained("flax", run, 20)
    _, torch_losses, _ = trained("torch", run, 20)
    np.testing.assert_allclose(flax_losses, torch_losses, rtol=0.05)


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_the_whole_state_moves_between_frameworks_bit_for_bit(name: str, precision: str) -> None:
    run = cnn_run(optimizer={"name": name}, training={"precision": precision})
    with learner("flax", run) as flax, learner("torch", run) as torch:
        state, _ = advance(flax, run, flax.init(0), 0, 3)
        first = flax.snapshot(state, "training")
        second = torch.snapshot(torch.restore(first), "training")
        third = flax.snapshot(flax.restore(second), "training")
    for later in (second, third):
        assert later.keys() == first.keys()
        for row, array in first.items():
            assert later[row].dtype == array.dtype
            assert later[row].tobytes() == array.tobytes(), row


@pytest.mark.parametrize(("before", "after"), [("flax", "torch"), ("torch", "flax")])
def test_a_run_goes_on_in_the_other_framework(before: str, after: str) -> None:
    run = run_spec()
    whole, _, _ = trained(before, run, 60)
    half, _, _ = trained(before, run, 30)
    with learner(after, run) as made:
        state, _ = advance(made, run, made.restore(half), 30, 60)
        assert greatest_difference(made.snapshot(state, "training"), whole) <= 1e-9
