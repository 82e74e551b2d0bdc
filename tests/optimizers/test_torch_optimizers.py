"""The shared rules as torch optimizers (their trajectories are compared with JAX's in tests/twins)."""

from __future__ import annotations

import copy
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dlhpc.optimizers import native, torch_optimizers
from dlhpc.optimizers.rules import BoundRule, Scalars, bind
from dlhpc.optimizers.torch_optimizers import RuleOptimizer, build
from dlhpc.spec.optimizer import AdaBeliefSpec, AdamWSpec, AdanSpec, LionSpec, OptimizerSpec, SophiaSpec

SPECS: list[OptimizerSpec] = [AdamWSpec(), LionSpec(), AdanSpec(), AdaBeliefSpec(), SophiaSpec()]


def parameter(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).to(dtype))


def gradient(like: Tensor, step: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng((7, step)).standard_normal(like.shape)).to(like.dtype)


def advance(optimizer: RuleOptimizer, start: int, stop: int) -> None:
    for step in range(start, stop):
        for group in optimizer.param_groups:
            for x in group["params"]:
                x.grad = gradient(x, step)
        optimizer.step()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_trajectory_is_the_rules_in_numpy(spec: OptimizerSpec) -> None:
    x, bound = parameter(5, 3), bind(spec)
    expected, slots = x.detach().numpy().copy(), tuple(np.zeros((5, 3)) for _ in bound.slots)
    optimizer = build([x], spec, lr=0.01)
    for step in range(50):
        advance(optimizer, step, step + 1)
        scalars = Scalars(0.01, spec.weight_decay, step + 1)
        slots, expected = bound.rule(np, gradient(x, step).numpy(), slots, expected, scalars)
    np.testing.assert_allclose(x.detach(), expected, rtol=0, atol=1e-13)
    for name, slot in zip(bound.slots, slots, strict=True):
        np.testing.assert_allclose(optimizer.state[x][name], slot, rtol=1e-12, atol=1e-14)


def test_adamw_is_torchs_own() -> None:
    ours, theirs = parameter(20), parameter(20)
    mine, reference = build([ours], AdamWSpec(), lr=0.01), torch.optim.AdamW([theirs], lr=0.01)
    for step in range(20):
        ours.grad = theirs.grad = gradient(ours, step)
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("shape", "transposed"), [((270_001,), False), ((600, 601), False), ((600, 601), True)])
def test_blocks_give_the_same_bits(shape: tuple[int, ...], transposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for gradients whose memory is ordered otherwise than the parameter's."""

    def moved() -> Tensor:
        x = parameter(*shape, dtype=torch.float32)
        optimizer = build([x], AdamWSpec(), lr=0.01, execution="eager")
        for step in range(3):
            g = gradient(x, step)
            x.grad = g.mT.contiguous().mT if transposed else g
            optimizer.step()
        return x.detach()

    in_blocks = moved()
    monkeypatch.setattr(torch_optimizers, "BLOCK", 1 << 30)
    assert torch.equal(in_blocks, moved())


def test_a_parameter_with_strange_strides_moves_too() -> None:
    plain = parameter(600, 601)
    strange = nn.Parameter(plain.detach().T.contiguous().T)
    assert not strange.is_contiguous()
    for x in (plain, strange):
        advance(build([x], LionSpec(), lr=0.01), 0, 3)
    assert torch.equal(plain, strange)


@pytest.mark.parametrize("change", ["transposed in place", "new memory", "slot transposed", "slot of another format"])
def test_what_was_seen_of_a_parameter_is_forgotten_when_it_changes(change: str) -> None:
    x, reference = parameter(30, 30), parameter(30, 30)
    mine, plain = build([x], LionSpec(), lr=0.01), build([reference], LionSpec(), lr=0.01, execution="eager")
    for optimizer, moved in ((mine, x), (plain, reference)):
        advance(optimizer, 0, 2)
        match change:
            case "transposed in place":
                moved.data = moved.data.T
            case "new memory":
                moved.data = moved.data.clone()
            case "slot transposed":
                optimizer.state[moved]["m"] = optimizer.state[moved]["m"].T
            case _:
                optimizer.state[moved]["m"] = optimizer.state[moved]["m"].float()
        advance(optimizer, 2, 4)
    assert torch.equal(x, reference)


def test_groups_scale_the_rate_and_choose_the_decay() -> None:
    free, slow, frozen, plain = (parameter(4) for _ in range(4))
    groups: list[dict[str, Any]] = [
        {"params": [free], "weight_decay": 0.0},
        {"params": [slow], "lr_scale": 0.5},
        {"params": [frozen], "lr_scale": 0.0},
    ]
    start = free.detach().clone()
    advance(build(groups, LionSpec(weight_decay=0.1), lr=0.01), 0, 1)
    advance(build([plain], LionSpec(weight_decay=0.1), lr=0.01), 0, 1)
    sign = gradient(free, 0).sign()
    torch.testing.assert_close(free.detach(), start - 0.01 * sign)
    torch.testing.assert_close(slow.detach(), start * (1 - 0.005 * 0.1) - 0.005 * sign)
    torch.testing.assert_close(plain.detach(), start * (1 - 0.01 * 0.1) - 0.01 * sign)
    assert torch.equal(frozen, start)


def test_the_rate_may_be_a_tensor_and_change() -> None:
    a, b = parameter(6), parameter(6)
    rate = torch.tensor(0.01, dtype=torch.float64)
    with_tensor, with_float = build([a], AdamWSpec(), lr=rate), build([b], AdamWSpec(), lr=0.01)
    advance(with_tensor, 0, 2)
    advance(with_float, 0, 2)
    rate.fill_(0.003)
    with_float.param_groups[0]["lr"] = 0.003
    advance(with_tensor, 2, 4)
    advance(with_float, 2, 4)
    assert torch.equal(a, b)


def test_steps_are_counted_per_parameter() -> None:
    often, seldom = parameter(3), parameter(3)
    optimizer = build([often, seldom], AdamWSpec(), lr=0.01)
    for step in range(4):
        often.grad = gradient(often, step)
        seldom.grad = gradient(seldom, step) if step == 3 else None
        optimizer.step()
    assert [int(optimizer.state[x]["step"]) for x in (often, seldom)] == [4, 1]


def test_slots_are_there_on_demand_and_zero() -> None:
    x = parameter(3, dtype=torch.float32)
    state = build([x], AdamWSpec()).slots_of(x)
    assert state.pop("step") == 0
    assert {name: (tensor.dtype, float(tensor.abs().sum())) for name, tensor in state.items()} == {
        "m": (torch.float32, 0.0),
        "v": (torch.float32, 0.0),
    }


def test_a_closure_is_evaluated_with_gradients() -> None:
    x = parameter(3)
    optimizer = build([x], LionSpec(), lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (x**2).sum()
        torch.autograd.backward(loss)
        return float(loss.detach())

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first


def test_sparse_gradients_are_refused() -> None:
    x = parameter(3)
    x.grad = torch.ones(3, dtype=torch.float64).to_sparse()
    with pytest.raises(ValueError, match="sparse gradients are not supported"):
        build([x], LionSpec()).step()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_loaded_state_goes_on_bit_for_bit(spec: OptimizerSpec) -> None:
    whole, half = parameter(6), parameter(6)
    advance(build([whole], spec, lr=0.01), 0, 8)
    first = build([half], spec, lr=0.01)
    advance(first, 0, 4)
    second = build([half], spec, lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    advance(second, 4, 8)
    assert torch.equal(whole, half)


def test_loading_keeps_the_slots_precision_and_owns_them() -> None:
    """torch would cast them to the parameter's."""
    wide, narrow = parameter(6), parameter(6, dtype=torch.bfloat16)
    saved = build([wide], AdamWSpec(), lr=0.01)
    advance(saved, 0, 2)
    state = saved.state_dict()
    loaded = build([narrow], AdamWSpec(), lr=0.01)
    loaded.load_state_dict(state)
    assert loaded.state[narrow]["m"].dtype == torch.float64
    assert torch.equal(loaded.state[narrow]["m"], saved.state[wide]["m"])
    assert loaded.state[narrow]["m"].data_ptr() != saved.state[wide]["m"].data_ptr()
    advance(loaded, 2, 3)
    assert (narrow.dtype, loaded.state[narrow]["m"].dtype) == (torch.bfloat16, torch.float64)


def test_a_state_without_a_parameters_slots_leaves_them_to_the_first_step() -> None:
    moved, fresh = parameter(3), parameter(3, seed=1)
    saved = build([moved, fresh], LionSpec(), lr=0.01)
    moved.grad = gradient(moved, 0)
    saved.step()
    loaded = build([moved, fresh], LionSpec(), lr=0.01)
    loaded.load_state_dict(saved.state_dict())
    advance(loaded, 1, 2)
    assert [int(loaded.state[x]["step"]) for x in (moved, fresh)] == [2, 1]


def test_a_rule_of_ones_own_is_run_too() -> None:
    def momentum(ns: Any, g: Any, slots: Any, x: Any, numbers: Any) -> Any:
        (m,) = slots
        m = 0.9 * m + g
        return (m,), x - numbers[0] * m

    def still(ns: Any, g: Any, slots: Any, x: Any, numbers: Any) -> Any:
        return (), x - numbers[0] * g

    def rate(ns: Any, h: Scalars) -> Any:
        return (h.lr,)

    x, y = parameter(4), parameter(4)
    start = x.detach().clone()
    advance(RuleOptimizer([x], BoundRule(("m",), rate, momentum), lr=0.1, weight_decay=0.0), 0, 2)
    advance(RuleOptimizer([y], BoundRule((), rate, still), lr=0.1, weight_decay=0.0), 0, 2)
    first, second = gradient(x, 0), gradient(x, 1)
    torch.testing.assert_close(x.detach(), start - 0.1 * first - 0.1 * (0.9 * first + second))
    torch.testing.assert_close(y.detach(), start - 0.1 * first - 0.1 * second)


SHAPES = [(), (1,), (7,), (3, 0), (33, 1001), (40_000,)]


def several(spec: OptimizerSpec, execution: Any, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    """Parameters of many shapes after some steps with estimates, where the optimizer wants them."""
    generator = torch.Generator().manual_seed(1)
    ones = [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES]
    groups: list[dict[str, Any]] = [{"params": ones[:3]}, {"params": ones[3:], "lr_scale": 0.5, "weight_decay": 0.2}]
    optimizer = build(groups, spec, lr=0.01, execution=execution)
    for step in range(4):
        for x in ones:
            x.grad = torch.randn(x.shape, generator=generator, dtype=dtype)
        if optimizer.bound.curvature is not None and step % 2 == 0:
            optimizer.set_hessian([torch.randn(x.shape, generator=generator, dtype=dtype) for x in ones])
        optimizer.step()
    return ones


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_machine_code_and_single_operations_agree(spec: OptimizerSpec, dtype: torch.dtype) -> None:
    """MKL's square root, which torch calls, may be off by one unit in the last place; the rest is the same."""
    for fast, slow in zip(several(spec, "auto", dtype), several(spec, "eager", dtype), strict=True):
        torch.testing.assert_close(fast, slow, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)


def test_torchs_compiler_agrees_and_compiles_once_for_all_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SHAPES", [(3,), (2, 2), (5,), (4,)])
    torch._dynamo.utils.counters.clear()
    for compiled, eager in zip(several(SophiaSpec(), "compiled"), several(SophiaSpec(), "eager"), strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-6, atol=1e-6)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_machine_code_is_made_once_for_all_rates_and_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    several(LionSpec(b1=0.123), "auto")
    monkeypatch.setattr(native, "_load", lambda *_: pytest.fail("compiled again"))
    several(LionSpec(b1=0.123), "auto")


def test_without_a_compiler_the_steps_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "kernel", lambda *_: None)
    for without, eager in zip(several(AdaBeliefSpec(), "auto"), several(AdaBeliefSpec(), "eager"), strict=True):
        assert torch.equal(without, eager)


def test_low_precision_parameters_move_operation_by_operation() -> None:
    x = parameter(50, dtype=torch.bfloat16)
    start = x.detach().clone()
    advance(build([x], AdanSpec(), lr=0.1), 0, 2)
    assert x.dtype == torch.bfloat16
    assert not torch.equal(x, start)


def test_a_stale_backward_pass_is_noticed() -> None:
    """Machine code writes behind autograd's back, and says so."""
    x = parameter(3)
    y = (x * x).sum()
    advance(build([x], LionSpec(), lr=0.1), 0, 1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(y)


def test_estimates_are_folded_in_before_the_move_and_once() -> None:
    x, spec = parameter(4), SophiaSpec(weight_decay=0.0)
    optimizer, start = build([x], spec, lr=0.01), x.detach().clone()
    optimizer.set_hessian([torch.full((4,), 1e6, dtype=torch.float64)])
    advance(optimizer, 0, 2)
    state = optimizer.state[x]
    assert torch.equal(state["h"], torch.full((4,), (1.0 - spec.b2) * 1e6, dtype=torch.float64))
    assert float((x - start).detach().abs().max()) < 1e-3  # unlike a step of sign, 0.01
    optimizer.set_hessian({x: torch.zeros(4, dtype=torch.float64)})
    advance(optimizer, 2, 3)
    assert float(state["h"].max()) == pytest.approx(spec.b2 * (1.0 - spec.b2) * 1e6)


def test_estimates_that_do_not_fit_are_refused() -> None:
    x, optimizer = parameter(4), build([parameter(4)], SophiaSpec())
    with pytest.raises(ValueError, match=r"of shape \(3\) for a parameter of \(4\)"):
        optimizer.set_hessian([torch.zeros(3)])
    with pytest.raises(ValueError, match="this optimizer does not have"):
        optimizer.set_hessian({x: torch.zeros(4)})
    with pytest.raises(ValueError, match="zip"):
        optimizer.set_hessian([])
    with pytest.raises(ValueError, match="takes no Hessian estimates"):
        build([x], LionSpec()).set_hessian([torch.zeros(4)])


@pytest.mark.parametrize("key", ["lr", "lr_scale", "weight_decay"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_rates_out_of_range_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{key}: .* came, expected a finite number"):
        build([{"params": [parameter(2)], key: value}], LionSpec())


def test_no_parameters_and_complex_ones_are_refused() -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        build([], LionSpec())
    with pytest.raises(ValueError, match="complex parameters are not supported"):
        build([nn.Parameter(torch.zeros(2, dtype=torch.complex64))], LionSpec())


def test_a_loaded_state_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    small, large = parameter(2), parameter(3)
    saved = {}
    for x in (small, large):
        optimizer = build([x], AdamWSpec())
        advance(optimizer, 0, 1)
        saved[x] = optimizer.state_dict()
    before = optimizer.state[large]["m"].clone()
    with pytest.raises(ValueError, match=r"parameter 0: m of shape \(2\), expected \(3\)"):
        optimizer.load_state_dict(saved[small])
    assert torch.equal(optimizer.state[large]["m"], before)
    with pytest.raises(ValueError, match="parameter 0 holds m, step, v, expected m, step"):
        build([large], LionSpec()).load_state_dict(saved[large])


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_loaded_state_keeps_its_number_format(spec: OptimizerSpec) -> None:
    wide, narrow = parameter(6), parameter(6, dtype=torch.float32)
    first = build([wide], spec)
    advance(first, 0, 2)
    second = build([narrow], spec)
    second.load_state_dict(first.state_dict())
    advance(second, 2, 4)
    assert {second.state[narrow][name].dtype for name in second.bound.slots} == {torch.float64}
    assert narrow.dtype == torch.float32
    assert second.state[narrow]["step"] == 4
