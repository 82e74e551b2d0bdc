"""The learners of both frameworks take the same path, and hand their whole state over to each other."""

from __future__ import annotations

from typing import Any

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


def with_optimizer(name: str, rate: float, /, **constants: object) -> RunSpec:
    """The small run under another optimizer; what AdamW has and it has not is left out."""
    return run_spec(optimizer={"name": name, **constants}, training={"learning_rate": rate})


def on_digits(name: str, rate: float, /, **constants: object) -> RunSpec:
    """An MLP on scikit-learn's digits."""
    run = with_optimizer(name, rate, **constants).canonical()
    model = run["model"] | {"input_shape": (8, 8, 1), "num_classes": 10}
    return RunSpec.model_validate(run | {"model": model, "data": {"source": "digits"}})


RUNS = {
    "digits-adan": on_digits("adan", 0.005),
    "digits-adabelief": on_digits("adabelief", 0.003),
    "digits-sophia-gnb": on_digits("sophia", 0.002),
    "digits-sophia-hutchinson": on_digits("sophia", 0.002, estimator="hutchinson"),
    "digits-lion": on_digits("lion", 0.002),
    "mlp-adamw": run_spec(),
    "cnn-adamw": cnn_run(),
    "mlp-lion": with_optimizer("lion", 0.0005),
    "mlp-adan": with_optimizer("adan", 0.005),
    "mlp-adan-no_prox": with_optimizer("adan", 0.005, decay="no_prox", weight_decay=0.2),
    "mlp-adabelief": with_optimizer("adabelief", 0.003),
    "mlp-adabelief-rectified": with_optimizer("adabelief", 0.01, rectify=True, eps=1e-16),
    "mlp-sophia-gnb": with_optimizer("sophia", 0.002),
    "mlp-sophia-hutchinson": with_optimizer("sophia", 0.002, estimator="hutchinson", interval=7),
    "mlp-clipped-averaged": run_spec(training={"clipping": {"name": "global_norm", "max_norm": 0.5}, "ema_decay": 0.9}),
    "cnn-adaptively-clipped": cnn_run(
        optimizer={"name": "sophia", "interval": 3},
        training={"clipping": {"name": "adaptive", "factor": 0.02}, "ema_decay": 0.98, "non_finite_gradients": "skip"},
    ),
}


def cases(*quick: str) -> list[Any]:
    """All runs, of which the default group makes these."""
    return [pytest.param(run, id=name, marks=[] if name in quick else pytest.mark.slow) for name, run in RUNS.items()]


@pytest.mark.parametrize(
    "run",
    cases(
        "cnn-adamw",
        "digits-lion",
        "digits-adan",
        "mlp-adabelief-rectified",
        "digits-sophia-gnb",
        "mlp-sophia-hutchinson",
        "mlp-clipped-averaged",
    ),
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
@pytest.mark.parametrize("name", ["adamw", "lion", "adan", "adabelief", "sophia"])
def test_the_whole_state_moves_between_frameworks_bit_for_bit(name: str, precision: str) -> None:
    run = cnn_run(optimizer={"name": name}, training={"precision": precision, "ema_decay": 0.9})
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


@pytest.mark.parametrize("run", cases("digits-sophia-gnb", "cnn-adaptively-clipped"))
@pytest.mark.parametrize(("before", "after"), [("flax", "torch"), ("torch", "flax")])
def test_a_run_goes_on_in_the_other_framework(before: str, after: str, run: RunSpec) -> None:
    whole, _, _ = trained(before, run, 60)
    half, _, _ = trained(before, run, 30)
    with learner(after, run) as made:
        state, _ = advance(made, run, made.restore(half), 30, 60)
        assert greatest_difference(made.snapshot(state, "training"), whole) <= 1e-9
