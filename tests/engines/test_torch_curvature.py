"""Sophia's estimates in the learner are their definitions, computed here from the whole Hessian and numpy's draws."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from dlhpc import draws
from dlhpc.data.batch import HostBatch
from dlhpc.engines.torch_network import build_model
from dlhpc.errors import ConfigError
from dlhpc.models.torch_layers import activate
from dlhpc.spec.run import RunSpec
from dlhpc.weights.table import param_table
from tests.engines.torch_options import opened, small_batch, small_controls, small_run, train

STEP = 2**32 + 7
"""Draws count steps modulo 2**32."""
NAMES = ("dense_0/kernel", "dense_0/bias", "head/kernel", "head/bias")
SHAPES = ((4, 3), (3,), (3, 3), (3,))
SIZES = [int(np.prod(shape)) for shape in SHAPES]


def split(flat: Any) -> dict[str, Any]:
    """Canonical arrays out of one vector."""
    cuts = torch.as_tensor(flat).split(SIZES)
    return {name: cut.reshape(shape) for name, cut, shape in zip(NAMES, cuts, SHAPES, strict=True)}


def logits(flat: torch.Tensor, batch: HostBatch) -> torch.Tensor:
    """The model without dropout, written down once more over canonical arrays."""
    arrays = split(flat)
    x = torch.tensor(batch.inputs[0], dtype=torch.float64).flatten(1)
    hidden = activate("silu", x @ arrays["dense_0/kernel"] + arrays["dense_0/bias"])
    return hidden @ arrays["head/kernel"] + arrays["head/bias"]


def exact_run(estimator: str, **training: Any) -> RunSpec:
    return small_run(estimator, precision="float64", **training)


def first_estimate(run: RunSpec, engine: str, batch: HostBatch) -> tuple[torch.Tensor, dict[str, Any]]:
    """The starting weights as one vector, and the slot h after one step over (1 - b2)."""
    with opened(engine) as make:
        learner = make(run)
        state = learner.init(run.seed)
        start = learner.snapshot(state, "model")
        state, _ = learner.steps(state, learner.place(batch), small_controls(start=STEP))
        slots = learner.snapshot(state, "training")
    flat = torch.cat([torch.tensor(start[name]).reshape(-1) for name in NAMES])
    return flat, {name: slots[f"slot/h/{name}"] / (1.0 - 0.99) for name in NAMES}


@pytest.mark.parametrize("engine", ["plain", "zero0"])
@pytest.mark.parametrize("parts", [1, 2])
def test_gauss_newton_bartlett(engine: str, parts: int) -> None:
    run = exact_run("gnb", gradient_accumulation=parts)
    batch = small_batch(run)
    batch = HostBatch(batch.inputs, batch.labels, batch.counts, first_row=16)
    flat, estimate = first_estimate(run, engine, batch)
    flat.requires_grad_()
    outputs, real = logits(flat, batch), int(batch.counts[0])
    rows, classes = 16 + np.arange(len(outputs))[:, None], np.arange(3)[None, :]
    counters = (run.seed, STEP & draws.MASK32, draws.SAMPLED_LABELS, rows, classes)
    noise = draws.gumbel(draws.NUMPY, np, np.float64, *counters)
    labels = torch.tensor((outputs.detach().numpy() + noise).argmax(axis=1))
    assert not np.array_equal(labels[:real], batch.labels[0, :real])
    loss = functional.cross_entropy(outputs[:real], labels[:real])
    expected = split(real * torch.autograd.grad(loss, flat)[0].square())
    for name in NAMES:
        np.testing.assert_allclose(estimate[name], expected[name], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("engine", ["plain", "zero0"])
@pytest.mark.parametrize("parts", [1, 2])
def test_hutchinson(engine: str, parts: int) -> None:
    run = exact_run("hutchinson", gradient_accumulation=parts)
    batch = small_batch(run)
    flat, estimate = first_estimate(run, engine, batch)
    real = int(batch.counts[0])
    truth = torch.tensor(batch.labels[0, :real], dtype=torch.int64)

    def objective(flat: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits(flat, batch)[:real], truth, label_smoothing=0.2)

    hessian = torch.func.hessian(objective)(flat)
    seed, step = run.seed, STEP & draws.MASK32
    probes = [
        draws.normal(draws.NUMPY, np, np.float64, seed, step, draws.PROBES + index, np.arange(size))
        for index, size in enumerate(SIZES)
    ]
    u = torch.tensor(np.concatenate(probes))
    expected = split(u * (hessian @ u))
    for name in NAMES:
        np.testing.assert_allclose(estimate[name], expected[name], rtol=1e-9, atol=1e-15)


def test_names_and_sizes_are_the_tables() -> None:
    assert tuple((row.name, row.shape) for row in param_table(small_run().model)) == tuple(
        zip(NAMES, SHAPES, strict=True)
    )
    assert build_model(small_run().model, torch.float64).get_parameter("head.weight").shape == (3, 3)


@pytest.mark.parametrize("estimator", ["gnb", "hutchinson"])
def test_estimates_come_every_interval_and_change_the_run(estimator: str) -> None:
    run = exact_run(estimator)
    with opened("zero2" if estimator == "gnb" else "plain") as make:
        learner = make(small_run(estimator))
        averages = [train(learner, run, None, range(stop))[1]["slot/h/dense_0/kernel"] for stop in range(8)]
    changed = [not np.array_equal(old, new) for old, new in pairwise(averages)]
    assert changed == [True, False, False, True, False, False, True]
    assert not averages[0].any()


def test_estimators_differ() -> None:
    with opened("plain") as make:
        ends = [train(make(run), run, None, range(1))[1] for run in map(exact_run, ("gnb", "hutchinson"))]
    assert not np.array_equal(ends[0]["slot/h/head/kernel"], ends[1]["slot/h/head/kernel"])


def test_hutchinson_needs_whole_weights() -> None:
    with opened("zero3") as make, pytest.raises(ConfigError, match=r"hutchinson with distributed\.zero_stage 3"):
        make(small_run("hutchinson"))
