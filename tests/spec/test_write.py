"""What is written is read back equal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlhpc.spec.catalogue import catalogue
from dlhpc.spec.load import RUN, file_form, load_run
from dlhpc.spec.load_yaml import parse
from dlhpc.spec.tree import Place, Problems
from dlhpc.spec.write import commented, flow, to_yaml

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    | st.sampled_from(["null", "true", "1e-3", "~", "", "0x1", "12", "no", "a b", "@x", "a: b", "- a", "#", "<<"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b_c"]), inner, max_size=2),
    max_leaves=6,
)


@given(value=VALUES)
def test_a_value_is_read_back_equal(value):
    problems = Problems()
    node = parse(f"key: {flow(value)}", Place("text"), problems)
    assert not problems.texts()
    assert node.plain() == {"key": value}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1e-8, "1.0e-08"),
        (1.5e-8, "1.5e-08"),
        (0.1, "0.1"),
        ("FlaxMLP", "FlaxMLP"),
        ("../data/x.npz", "../data/x.npz"),
        ("true", '"true"'),
        ((1, 2), "[1, 2]"),
        ({"match": "head/*"}, '{match: "head/*"}'),
    ],
)
def test_values_look_as_people_write_them(value, text):
    assert flow(value) == text


def test_a_run_is_read_back_equal(tmp_path):
    overrides = [
        "data={source: arrays, path: 'a b.npz'}",
        "optimizer={name: lion, groups: [{match: 'head/*'}]}",
    ]
    run = load_run(None, overrides=overrides, environ={})
    path = tmp_path / "run.yaml"
    path.write_text("\n".join(to_yaml(file_form(run), lambda key: f"here is {key}")))
    assert "# here is training.schedule.name" in path.read_text()
    assert load_run(path, environ={}) == run


def _holds(when, chosen):
    tag, _, names = when.partition(": ")
    return chosen[tag] in names.split(" or ")


@pytest.fixture
def text():
    given = {"model.name": "FlaxMLP", "data.source": "synthetic", "training.num_epochs": 3}
    chosen = {key.path: key.default for key in catalogue(RUN)} | given
    keys = [key for key in catalogue(RUN) if all(_holds(when, chosen) for when in key.when)]
    return "\n".join(commented(keys, given))


def test_a_commented_file_sets_what_is_given(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert load_run(path, environ={}) == load_run(None, overrides=["training.num_epochs=3"], environ={})


def test_what_is_switched_off_has_the_default(tmp_path, text):
    path = tmp_path / "run.yaml"
    switched_on = re.sub(r"^( *)#(?=\S| {2})", r"\1", text, flags=re.MULTILINE)
    assert switched_on.count("\n  schedule:\n    # ") == 1
    path.write_text(switched_on)
    assert load_run(path, environ={}) == load_run(None, overrides=["training.num_epochs=3"], environ={})


def test_lines_are_not_too_long(text):
    assert max(map(len, text.splitlines())) <= 100
