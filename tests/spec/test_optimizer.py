"""Constants of optimizers: what is in range is kept, what is not is refused with what came and what was expected."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dlhpc.errors import ConfigError
from dlhpc.optimizers.rules import Scalars, bind
from dlhpc.spec.load import load_run
from dlhpc.spec.optimizer import (
    AdaBeliefSpec,
    AdamWSpec,
    AdanSpec,
    LionSpec,
    OptimizerSpec,
    ParameterGroup,
    SophiaSpec,
)

KINDS: tuple[Any, ...] = get_args(get_args(OptimizerSpec)[0])
SHARES, POSITIVE, NOT_NEGATIVE = ("b1", "b2", "b3"), ("eps", "gamma"), ("weight_decay",)
RANGES = [
    (kind, name, limits)
    for kind in KINDS
    for names, limits in ((SHARES, "[0, 1)"), (POSITIVE, "(0, inf)"), (NOT_NEGATIVE, "[0, inf)"))
    for name in names
    if name in kind.model_fields
]
by_name = pytest.mark.parametrize(("kind", "name", "limits"), RANGES, ids=lambda x: getattr(x, "__name__", None))


def inside(value: float, limits: str) -> bool:
    match limits:
        case "[0, 1)":
            return 0.0 <= value < 1.0
        case "(0, inf)":
            return 0.0 < value < math.inf
        case _:
            return 0.0 <= value < math.inf


def test_every_constant_has_a_range_here() -> None:
    numbers = {name for kind in KINDS for name, field in kind.model_fields.items() if "float" in str(field.annotation)}
    assert numbers == {*SHARES, *POSITIVE, *NOT_NEGATIVE}


@by_name
@given(value=st.floats() | st.sampled_from([0.0, -0.0, 1.0, -1e-300, 0.9999999999999999]))
def test_a_constant_is_kept_or_refused(kind: Any, name: str, limits: str, value: float) -> None:
    if inside(value, limits):
        assert getattr(kind(**{name: value}), name) == value
    else:
        with pytest.raises(ValidationError, match=name):
            kind(**{name: value})


@pytest.mark.parametrize("value", ["0.9", None, True, [0.9]])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_file_takes_only_numbers(kind: Any, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.b1: .* came, expected a number >= 0 and < 1"):
        load_run(
            None, overrides=["data.source=digits", f"optimizer.name={name_of(kind)}", f"optimizer.b1={quoted(value)}"]
        )


@by_name
def test_out_of_range_says_what_came_and_what_was_expected(kind: Any, name: str, limits: str) -> None:
    words = {"[0, 1)": "a number >= 0 and < 1", "(0, inf)": "a number > 0", "[0, inf)": "a number >= 0"}[limits]
    wrong = [f"optimizer.name={name_of(kind)}", f"optimizer.{name}=-0.5"]
    with pytest.raises(ConfigError, match=rf"optimizer\.{name}: -0.5 came, expected {words}"):
        load_run(None, overrides=["data.source=digits", *wrong])


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sophia", "interval=0"], r"optimizer\.interval: 0 came, expected an integer >= 1"),
        (["sophia", "interval=2.5"], r"optimizer\.interval: 2.5 came, expected an integer"),
        (["sophia", "estimator=exact"], r"optimizer\.estimator: text 'exact' came, expected .*'gnb'.*'hutchinson'"),
        (["adan", "decay=decoupled"], r"optimizer\.decay: text 'decoupled' came, expected .*'prox'.*'no_prox'"),
        (["adabelief", "rectify=1.5"], r"optimizer\.rectify: 1.5 came, expected true or false"),
        (["adabelief", "rectify=true", "b2=0.6"], r"rectify with b2 0\.6: it is never defined"),
        (["lion", "eps=1e-8"], r"optimizer\.eps"),
        (["adamw", "gamma=0.1"], r"optimizer\.gamma"),
    ],
)
def test_a_wrong_choice_is_named(overrides: list[str], expected: str) -> None:
    name, *rest = overrides
    keys = [f"optimizer.name={name}", *(f"optimizer.{key}" for key in rest)]
    with pytest.raises(ConfigError, match=expected):
        load_run(None, overrides=["data.source=digits", *keys])


@given(b2=st.floats(0.0, 1.0, exclude_max=True))
def test_rectification_is_refused_where_it_never_acts(b2: float) -> None:
    """RAdam's rho tends to 2 / (1 - b2) - 1 and must pass 4."""
    if 2 / (1 - b2) - 1 <= 4:
        with pytest.raises(ValidationError, match="never defined"):
            AdaBeliefSpec(b2=b2, rectify=True)
    else:
        rate = bind(AdaBeliefSpec(b2=b2, rectify=True)).coefficients(np, Scalars(1.0, 0.0, 10**9))[0]
        assert 0.0 <= rate <= 1.0


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_every_permitted_spec_gives_finite_steps(kind: Any, data: st.DataObject) -> None:
    """However odd the constants are, a moderate gradient moves a parameter by a finite amount."""
    share, size = st.floats(0.0, 0.9999), st.floats(1e-12, 10.0)
    values = {name: data.draw(share, name) for name in SHARES if name in kind.model_fields}
    values |= {name: data.draw(size, name) for name in (*POSITIVE, *NOT_NEGATIVE) if name in kind.model_fields}
    spec = kind(**values)
    bound = bind(spec)
    x, slots = np.ones(4), tuple(np.zeros(4) for _ in bound.slots)
    for t in range(1, 6):
        g = np.array([0.0, 1e-8, -1.0, 1e4])
        slots, x = bound.rule(np, g, slots, x, Scalars(1e-3, spec.weight_decay, t))
    assert np.isfinite(x).all()


@pytest.mark.parametrize("scale", [-1e-9, math.nan, math.inf])
def test_a_group_s_scale_is_finite_and_not_negative(scale: float) -> None:
    with pytest.raises(ValidationError, match="learning_rate_scale"):
        ParameterGroup(match="head/*", learning_rate_scale=scale)


def test_gamma_is_the_paper_s_for_the_estimator_unless_given() -> None:
    assert [SophiaSpec(estimator=kind).curvature_scale for kind in ("gnb", "hutchinson")] == [0.05, 0.01]
    assert SophiaSpec(estimator="hutchinson", gamma=0.3).curvature_scale == 0.3


def test_the_defaults_are_the_papers() -> None:
    assert (LionSpec().b1, LionSpec().b2) == (0.9, 0.99)
    adan = AdanSpec()
    assert (adan.b1, adan.b2, adan.b3, adan.eps, adan.weight_decay, adan.decay) == (
        0.98,
        0.92,
        0.99,
        1e-8,
        0.02,
        "prox",
    )
    belief = AdaBeliefSpec()
    assert (belief.b1, belief.b2, belief.eps, belief.rectify) == (0.9, 0.999, 1e-8, False)
    sophia = SophiaSpec()
    assert (sophia.b1, sophia.b2, sophia.eps, sophia.interval, sophia.estimator) == (0.96, 0.99, 1e-12, 10, "gnb")
    assert (AdamWSpec().b1, AdamWSpec().b2, AdamWSpec().eps) == (0.9, 0.999, 1e-8)


def name_of(kind: Any) -> str:
    return str(kind.model_fields["name"].default)


def quoted(value: Any) -> str:
    return {str: f"'{value}'", type(None): "null", bool: "true", list: "[0.9]"}[type(value)]
