"""Places word their problems; nodes carry them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlhpc.errors import ConfigError
from dlhpc.spec.tree import REFUSED, Entry, Node, Place, Problems, nest, node_of

HERE = Place("run.yaml", 3, 5, "  a: 1")


def test_a_problem_has_place_key_and_caret():
    assert HERE.problem("b.a", "1 came") == "run.yaml:3:5: b.a: 1 came\n      a: 1\n        ^"
    assert HERE.problem("", "1 came").startswith("run.yaml:3:5: 1 came\n")


def test_a_place_outside_files_has_no_line():
    assert Place("--set a=1").problem("a", "1 came") == "--set a=1: a: 1 came"


def test_the_key_as_it_was_written_is_told():
    place = Place("run.yaml", written="model.name")
    assert place.problem("backend", "x") == "run.yaml: model.name: x"


@pytest.mark.parametrize(
    ("source", "column", "caret"),
    [("\ta: 1", 2, "\t^"), ("日本: 1", 5, "      ^"), ("e\u0301: 1", 5, "   ^")],
)
def test_the_caret_stands_below_the_value(source, column, caret):
    assert Place("f", 1, column, source).problem("a", "x").splitlines()[2] == f"    {caret}"


def test_a_long_line_is_cut_around_the_caret():
    source = "x" * 500 + "HERE" + "y" * 500
    _, shown, caret = Place("f", 1, 501, source).problem("a", "x").splitlines()
    assert len(shown) <= 104
    assert shown[caret.index("^") :].startswith("HERE")


def test_problems_come_by_layer_and_line_each_once():
    problems = Problems()
    problems.add(Place("z", 2, 1, layer=1), "k", "third")
    problems.add(Place("b", 2, 1), "k", "second")
    problems.add(Place("b", 1, 9), "k", "first")
    problems.add(Place("b", 1, 9), "k", "first")
    assert [text.rpartition(" ")[2] for text in problems.texts()] == ["first", "second", "third"]
    with pytest.raises(ConfigError) as caught:
        problems.raise_any()
    assert caught.value.problems == problems.texts()


def test_no_problem_raises_nothing():
    Problems().raise_any()


def test_plain_values_become_nodes_and_come_back():
    inner = Node(3, HERE)
    node = node_of({"a": [1, "x", None], "b": {"c": inner}, "d": (1.5,), "e": Path("p")}, Place("here"))
    assert node.plain() == {"a": [1, "x", None], "b": {"c": 3}, "d": [1.5], "e": "p"}
    assert node.get("b").get("c") is inner
    assert node.get("none") is None


def test_refused_values_are_left_out():
    node = Node(
        {
            "a": Entry(HERE, Node([Node(1, HERE), Node(REFUSED, HERE)], HERE)),
            "b": Entry(HERE, Node(REFUSED, HERE)),
        },
        HERE,
    )
    assert node.plain() == {"a": [1]}
    assert node.refused_inside()
    assert not Node([Node(1, HERE)], HERE).refused_inside()


def test_nesting_makes_mappings_of_a_path():
    assert nest(["a", "b"], Node(1, HERE), HERE).plain() == {"a": {"b": 1}}
