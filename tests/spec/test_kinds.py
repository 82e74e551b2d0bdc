"""Types in words."""

from __future__ import annotations

import pytest

from dlhpc.spec.kinds import Choice, Items, Leaf, Section, child, describe, fields, show
from dlhpc.spec.model import CNNSpec, MLPSpec
from dlhpc.spec.run import RunSpec


def test_kinds_of_a_run():
    kinds = fields(RunSpec)
    assert isinstance(kinds["seed"], Leaf)
    assert isinstance(kinds["training"], Section)
    assert isinstance(kinds["model"], Choice)
    assert (kinds["model"].tag, kinds["model"].options) == ("architecture", {"mlp": MLPSpec, "cnn": CNNSpec})
    assert kinds["model"].default == "mlp"
    assert isinstance(child(kinds["optimizer"], "groups"), Items)
    assert child(kinds["optimizer"], "none") is None


def test_common_keys_are_those_of_a_shared_base():
    kinds = fields(RunSpec)
    assert {"num_classes", "dropout_rate"} <= kinds["model"].common()
    assert "hidden_sizes" not in kinds["model"].common()
    assert kinds["data"].common() == {"split", "augment", "mean", "std"}
    assert child(kinds["training"], "schedule").common() == {"warmup"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer"}, "an integer"),
        ({"type": "integer", "minimum": 1, "maximum": 2147483647}, "an integer >= 1"),
        ({"type": "number", "exclusiveMinimum": 0.0, "maximum": 0.5}, "a number > 0 and <= 0.5"),
        ({"type": "boolean"}, "true or false"),
        ({"enum": ["a", "b"]}, "one of 'a', 'b'"),
        ({"const": 1}, "1"),
        ({"type": "string", "format": "path"}, "a path"),
        ({"type": "string", "pattern": "x+"}, "a text matching x+"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "a text or null"),
        ({"type": "array", "items": {"type": "string"}}, "a list of texts"),
        ({"type": "array", "items": {"type": "string", "format": "path"}}, "a list of paths"),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 3}, "a list of up to 3 integers"),
        (
            {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
            "a list of 1 to 3 numbers",
        ),
        ({"type": "array", "items": {"type": "number"}, "minItems": 1}, "a list of 1 or more numbers"),
        ({"type": "array", "prefixItems": [{"type": "integer"}] * 2}, "a list of 2 integers"),
        (
            {"type": "array", "items": {"type": "array", "prefixItems": [{"type": "integer"}] * 2}},
            "a list of lists of 2 integers",
        ),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "a mapping of integers"),
        ({"type": "object"}, "a mapping"),
    ],
)
def test_types_in_words(schema, words):
    assert describe(schema) == words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        (float("nan"), ".nan"),
        (float("-inf"), "-.inf"),
        ("a'b", '"a\'b"'),
        ("x" * 100, repr("x" * 57 + "...")),
        ({"a": 1}, "a mapping"),
        ([1, ["a"]], "[1, ['a']]"),
        ([1] * 100, "a list of 100"),
    ],
)
def test_values_as_messages_show_them(value, shown):
    assert show(value) == shown
