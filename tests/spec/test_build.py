"""The builder on specs made for the purpose: optional sections, choices without a default, lists of choices."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from dlhpc.spec.base import Name, PositiveInt, Spec
from dlhpc.spec.build import BAD, Builder
from dlhpc.spec.load_yaml import parse
from dlhpc.spec.suggest import Words
from dlhpc.spec.tree import Place, Problems


class _Dense(Spec):
    """Dense."""

    type: Literal["dense"] = "dense"
    width: PositiveInt
    """Outputs."""


class _Pool(Spec):
    """Pool."""

    type: Literal["pool"] = "pool"
    size: PositiveInt = 2
    """Window."""


Block = Annotated[_Dense | _Pool, Field(discriminator="type")]


class _Inner(Spec):
    """Inner."""

    low: int = 0
    """Low."""
    high: int = 1
    """High."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self


class _Outer(Spec):
    """Outer."""

    named: dict[Name, _Inner] = Field(default_factory=dict)
    """Named."""

    first: Block
    """First."""
    blocks: tuple[Block, ...] = ()
    """Blocks."""
    inner: _Inner = _Inner()
    """Inner."""
    maybe: _Inner | None = None
    """Maybe."""
    counts: dict[str, PositiveInt] = Field(default_factory=dict)
    """Counts."""
    pair: tuple[PositiveInt, PositiveInt] | None = None
    """Pair."""


def build(text: str):
    problems = Problems()
    node = parse(text, Place("f"), problems)
    builder = Builder(_Outer, problems, Words({}, {}))
    return builder.build(node), [text.splitlines()[0] for text in problems.texts()]


FIRST = "first: {type: pool}\n"


def test_values_become_the_spec():
    spec, problems = build(
        "first: {type: dense, width: 3}\n"
        "blocks: [{type: pool, size: 4}, {type: dense, width: 5}]\n"
        "maybe: {low: 3, high: 4}\n"
        "counts: {a: 1}\n"
        "pair: [1, 2]\n"
    )
    assert not problems
    assert spec == _Outer(
        first=_Dense(width=3),
        blocks=(_Pool(size=4), _Dense(width=5)),
        maybe=_Inner(low=3, high=4),
        counts={"a": 1},
        pair=(1, 2),
    )


def test_null_of_an_optional_section_is_none():
    spec, _ = build(FIRST + "maybe: null\ninner: null\n")
    assert (spec.maybe, spec.inner) == (None, _Inner())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("inner: {}\n", "f:1:1: first: missing, expected a value (First)"),
        ("first: {width: 3}\n", "f:1:1: first.type: missing, expected one of 'dense', 'pool'"),
        ("first: {type: dense}\n", "f:1:1: first.width: missing, expected an integer >= 1 (Outputs)"),
        ("first: {type: 3}\n", "f:1:15: first.type: 3 came, expected one of 'dense', 'pool'"),
        (FIRST + "blocks: [{size: 1}]\n", "f:2:10: blocks[0].type: missing, expected one of 'dense', 'pool'"),
        (
            FIRST + "blocks: [3]\n",
            "f:2:10: blocks[0]: 3 came, expected a mapping with keys such as type, width",
        ),
        (FIRST + "inner: {low: 5}\n", "f:2:8: inner: low 5 is not below high 1"),
        (FIRST + "counts: {a: 0}\n", "f:2:9: counts: a mapping came, expected a mapping of integers >= 1"),
        (FIRST + "pair: [1]\n", "f:2:7: pair: [1] came, expected a list of 2 integers >= 1 or null"),
        (FIRST + "pair: [1, 0]\n", "f:2:11: pair[1]: 0 came, expected an integer >= 1"),
        (FIRST + "pair: [1, [2]]\n", "f:2:11: pair[1]: [2] came, expected an integer >= 1"),
        (FIRST + "pair: []\n", "f:2:7: pair: an empty list came, expected a list of 2 integers >= 1 or null"),
        (FIRST + "inner: {low: null}\n", "f:2:14: inner.low: nothing (null) came, expected an integer"),
    ],
)
def test_a_problem_says_what_was_expected(text, expected):
    spec, problems = build(text)
    assert spec is BAD or problems
    assert problems == [expected]


def test_a_rule_of_a_section_waits_for_its_values():
    _, problems = build(FIRST + "inner: {low: 5, high: x}\n")
    assert problems == ["f:2:23: inner.high: text 'x' came, expected an integer"]


def test_a_misspelt_choice_is_checked_as_what_was_meant():
    _, problems = build("first: {type: dens, width: 0}\n")
    assert problems == [
        "f:1:15: first.type: text 'dens' came, expected one of 'dense', 'pool'; did you mean 'dense'?",
        "f:1:28: first.width: 0 came, expected an integer >= 1",
    ]


def test_refused_values_are_not_told_twice():
    spec, problems = build(FIRST + "pair: [1, !x 2]\ninner: !y {}\n")
    assert spec is not BAD
    assert [problem.split(": ")[0] for problem in problems] == ["f:2:11", "f:3:8"]
