"""The JSON Schema takes the files that the loader takes, and refuses the same shapes."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlhpc.errors import ConfigError
from dlhpc.spec.load import RUN, SERVING, file_form, load_mapping, load_run, load_serving
from dlhpc.spec.schema import file_schema

CONFIG = Path(__file__).parents[2] / "config"
RUN_SCHEMA = jsonschema.Draft202012Validator(file_schema(RUN))
SERVING_SCHEMA = jsonschema.Draft202012Validator(file_schema(SERVING))


@pytest.mark.parametrize("schema", [RUN_SCHEMA, SERVING_SCHEMA])
def test_it_is_a_schema(schema):
    jsonschema.Draft202012Validator.check_schema(schema.schema)


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_files_fit(path):
    schema = SERVING_SCHEMA if path.name.startswith("serve") else RUN_SCHEMA
    schema.validate(load_mapping(path).plain())


def test_every_default_written_out_fits():
    RUN_SCHEMA.validate(file_form(load_run(None, environ={})))
    SERVING_SCHEMA.validate(file_form(load_serving(None, environ={})))


def test_every_property_is_described():
    def undescribed(schema, path):
        for name, inner in schema.get("properties", {}).items():
            if "description" not in inner and "anyOf" not in inner and "const" not in inner:
                yield f"{path}.{name}"
            yield from undescribed(inner, f"{path}.{name}")
        for option in schema.get("oneOf", []):
            yield from undescribed(option, path)

    for schema in (RUN_SCHEMA.schema, SERVING_SCHEMA.schema):
        assert not list(undescribed(schema["else"], ""))


REFUSED = [
    {"sed": 1},
    {"model": {"name": "FlaxMPL"}},
    {"model": {"name": "FlaxMLP", "channels": [3]}},
    {"model": {"channels": [3]}},
    {"model": {"name": "FlaxMLP", "architecture": "cnn"}},
    {"data": {"source": "arrays"}},
    {"data": {"path": "x"}},
    {"data": 3},
    {"data": {"source": "arrays", "path": 3}},
    {"training": {"batch_size": 0}},
    {"training": {"batch_size": "3"}},
    {"training": {"learning_rate": 0}},
    {"optimizer": {"name": "lion", "eps": 1.0}},
    {"optimizer": {"groups": [{"learning_rate_scale": 1.0}]}},
    {"optimizer": {"groups": [{"match": "*", "x": 1}]}},
    {"training": {"schedule": {"name": "constant", "final_scale": 0.1}}},
    {"training": {"schedule": {"name": "wsd", "shape": "exponential"}}},
    {"extends": 3},
    {"extends": "base.yaml", "model": {"nam": "x"}},
]
TAKEN = [
    {"model": {"name": "TorchDeepSpeedCNN", "channels": [3], "strides": [1]}},
    {"model": {"architecture": "cnn", "channels": [3], "strides": [1]}, "backend": "torch"},
    {"model": {"num_classes": 3}},
    {"model": None, "training": None, "optimizer": None, "data": None},
    {"data": {"source": "arrays", "path": "x"}},
    {"data": {"noise": 0.5}},
    {"optimizer": {"name": "lion", "groups": [{"match": "*"}]}},
    {"training": {"schedule": {"name": "constant"}}},
    {"training": {"schedule": {"name": "wsd", "warmup": 0.5, "decay": 0.5, "shape": "linear"}}},
    {"training": {"learning_rate": 1}},
]


def loads(value, folder) -> bool:
    path = folder / "run.yaml"
    path.write_text(json.dumps(value))
    try:
        load_run(path, environ={})
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("value", REFUSED, ids=json.dumps)
def test_what_the_loader_refuses_does_not_fit(value, tmp_path):
    (tmp_path / "base.yaml").write_text("seed: 1")
    assert not RUN_SCHEMA.is_valid(value)
    assert not loads(value, tmp_path)


@pytest.mark.parametrize("value", TAKEN, ids=json.dumps)
def test_what_the_loader_takes_fits(value, tmp_path):
    assert RUN_SCHEMA.is_valid(value)
    assert loads(value, tmp_path)


def test_a_file_that_extends_may_leave_out_what_its_base_says():
    assert RUN_SCHEMA.is_valid({"extends": "base.yaml", "data": {"path": "x"}, "model": {"channels": [3]}})
    assert RUN_SCHEMA.is_valid({"extends": ["a.yaml", "b.yaml"]})


SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.fixed_dictionaries(
            {},
            optional={
                "name": st.sampled_from(["FlaxMLP", "TorchDeepSpeedCNN", "x"]),
                "num_classes": st.sampled_from([None, 10, 1]),
                "hidden_sizes": st.sampled_from([[3], [], 3, ["a"]]),
                "kernel_size": st.sampled_from([[3, 3], [3]]),
            },
        ),
        "data": st.fixed_dictionaries(
            {},
            optional={
                "source": st.sampled_from(["digits", "arrays", "image_folder", "synthetic", "x"]),
                "path": st.sampled_from(["x", 3]),
                "mean": st.sampled_from([[0.5], 0.5]),
                "noise": st.sampled_from([0.5, -1]),
            },
        ),
        "training": st.sampled_from([None, {}, {"batch_size": 3}, {"batch_size": 3.5}, {"precision": "float16"}]),
        "optimizer": st.sampled_from([{"name": "lion"}, {"eps": 1.0}, {"name": "lion", "eps": 1.0}]),
    },
)


@settings(max_examples=150, deadline=None)
@given(value=SECTIONS)
def test_schema_and_loader_agree(value, tmp_path_factory):
    assert RUN_SCHEMA.is_valid(value) == loads(value, tmp_path_factory.mktemp("schema"))
