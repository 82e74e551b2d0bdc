"""Guesses are right where they are made, and not made where they would be wild."""

from __future__ import annotations

import pytest

from dlhpc.spec.kinds import Section, fields
from dlhpc.spec.run import RunSpec
from dlhpc.spec.suggest import OTHER_NAMES, closest, places, value_hint
from dlhpc.spec.training import TrainingSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wieght_decay", "weight_decay"),
        ("learning-rate", "learning_rate"),
        ("Batch_Size", "batch_size"),
        ("lr", "learning_rate"),
        ("xyz", None),
        ("", None),
    ],
)
def test_closest(text, expected):
    assert closest(text, ["weight_decay", "learning_rate", "batch_size"]) == expected


def test_other_tools_names_lead_to_keys_that_exist():
    names = {name for _, name in places(Section(RunSpec), None)}
    assert set(OTHER_NAMES.values()) <= names | {"name"}
    assert not set(OTHER_NAMES) & names


def test_places_of_a_key():
    assert set(places(Section(RunSpec), "name")) >= {
        ((), "name"),
        (("optimizer",), "name"),
        (("registry",), "name"),
    }
    assert list(places(Section(RunSpec), "warmup")) == [(("training", "schedule"), "warmup")]


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("batch_size", "64", "did you mean 64, without quotes?"),
        ("batch_size", "1_000", "did you mean 1000, without quotes?"),
        ("batch_size", "6.5", None),
        ("batch_size", "many", None),
        ("batch_size", "1e30", None),
        ("batch_size", 2**40, "the greatest is 2147483647"),
        ("batch_size", 6.5, None),
        ("batch_size", 6.0, "did you mean 6?"),
        ("learning_rate", "0,5", "did you mean 0.5, without quotes?"),
        ("precision", "bf16", "did you mean 'bfloat16'?"),
        ("precision", "xyz", None),
    ],
)
def test_hints_for_values(key, value, hint):
    assert value_hint(value, fields(TrainingSpec)[key].schema()) == hint


@pytest.mark.parametrize(
    ("schema", "value", "hint"),
    [
        ({"type": "boolean"}, "off", "YAML 1.2 knows only true and false; did you mean false?"),
        ({"type": "boolean"}, "maybe", None),
        ({"type": "array", "items": {"type": "integer"}}, 3, "did you mean [3]?"),
        ({"type": "array", "items": {"type": "integer"}}, "3,4", "a list stands in brackets: [3,4]"),
        ({"type": "array", "items": {"type": "integer"}}, "x", None),
        ({"type": "array", "items": {"type": "integer"}}, True, None),
        ({"type": "string"}, "x", None),
    ],
)
def test_hints_for_types(schema, value, hint):
    assert (value_hint(value, schema) or "").replace(", ", ",") == (hint or "").replace(", ", ",")
