"""Every key of a file is in the catalogue, with help, and settable by the default it names."""

from __future__ import annotations

import json

import pytest

from dlhpc.spec.catalogue import REQUIRED, catalogue
from dlhpc.spec.load import RUN, SERVING, file_form, load_run, load_serving
from dlhpc.spec.write import flow


def paths(values, path=""):
    """Dotted keys of nested mappings."""
    for key, value in values.items():
        yield f"{path}{key}"
        if isinstance(value, dict):
            yield from paths(value, f"{path}{key}.")


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [
            "model.name=FlaxCNN",
            "optimizer.name=lion",
            "training.schedule.name=constant",
            "data.source=digits",
        ],
        ["data={source: image_folder, path: x}"],
        ["data={source: arrays, path: x}"],
    ],
)
def test_every_key_of_a_run_is_listed(overrides):
    listed = {key.path for key in catalogue(RUN)}
    assert set(paths(file_form(load_run(None, overrides=overrides, environ={})))) <= listed
    assert "backend" not in listed
    assert "model.architecture" not in listed


def test_every_key_of_a_server_is_listed():
    rates = ["rate_limits.per_client.per_second=1", "rate_limits.total.per_second=1"]
    written = [
        set(paths(file_form(load_serving(None, overrides=overrides, environ={}))))
        for overrides in (
            [],
            [
                *rates,
                *(f"models.cats{part}.ref=cats" for part in ("", ".canary", ".shadow")),
                "autoscaling.max_replicas=2",
            ],
        )
    ]
    listed = {key.path.replace(".NAME", ".cats") for key in catalogue(SERVING)}
    assert listed == set.union(*written) - {"models.cats"}


@pytest.mark.parametrize("form", [RUN, SERVING], ids=["run", "server"])
def test_every_key_has_help_and_a_type(form):
    for key in catalogue(form):
        assert key.help, key.path
        assert key.expected, key.path
        assert key.kind != "value" or key.default == REQUIRED or json.dumps(key.default), key.path


def test_every_choice_is_explained():
    keys = {key.path: key for key in catalogue(RUN)}
    for path in ("model.name", "optimizer.name", "data.source", "training.schedule.name"):
        assert len(keys[path].choices) >= 2
        assert all(keys[path].choices.values()), path


def test_keys_say_with_which_choice_they_exist():
    found = [(key.path, key.default, key.when) for key in catalogue(RUN)]
    assert ("model.channels", [32, 64], ("model.name: FlaxCNN or TorchDeepSpeedCNN",)) in found
    assert ("data.split.method", "halves", ("data.source: digits",)) in found
    assert ("data.split.method", "hash", ("data.source: arrays or image_folder or synthetic",)) in found
    assert ("data.split.validation", 0.1, ()) in found
    assert ("optimizer.b2", 0.999, ("optimizer.name: adamw",)) in found
    assert ("optimizer.b2", 0.99, ("optimizer.name: lion",)) in found
    assert ("optimizer.groups[].match", REQUIRED, ()) in found


def test_defaults_set_by_hand_give_the_default_run():
    chosen = {"model.name: FlaxMLP", "optimizer.name: adamw", "data.source: synthetic"}
    chosen.add("training.schedule.name: warmup_cosine")

    def exists(when):
        tag, _, names = when.partition(": ")
        return any(f"{tag}: {name}" in chosen for name in names.split(" or "))

    overrides = [
        f"{key.path}={flow(key.default)}"
        for key in catalogue(RUN)
        if key.kind != "section" and "[]" not in key.path and all(map(exists, key.when))
    ]
    assert len(overrides) > 40
    assert load_run(None, overrides=overrides, environ={}) == load_run(None, environ={})


def test_variables_are_named():
    keys = {key.path: key for key in catalogue(RUN)}
    assert keys["training.learning_rate"].variable(RUN) == "DLHPC_TRAINING__LEARNING_RATE"
    assert next(key for key in catalogue(SERVING) if key.path == "port").variable(SERVING) == "DLHPC_SERVING__PORT"
