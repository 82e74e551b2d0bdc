import pickle

import numpy as np
import pytest

from dlhpc.errors import IntegrityError, NotFoundError, UsageError
from dlhpc.registry.foreign_weights import canonical_weights, read_foreign
from dlhpc.spec.model import CNNSpec
from dlhpc.weights.file import write_file
from dlhpc.weights.init import initial_weights
from dlhpc.weights.layout import layout
from dlhpc.weights.table import param_table
from tests.registry.samples import sample, sample_run

MODEL = CNNSpec(input_shape=(4, 4, 1), num_classes=3, channels=(2,), strides=(1,), hidden_sizes=(5,))
WEIGHTS = initial_weights(param_table(MODEL), 0)


def equal(a, b):
    assert a.keys() == b.keys()
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], strict=True)


def test_canonical_and_flax_names():
    equal(canonical_weights(MODEL, dict(WEIGHTS), "here"), WEIGHTS)
    equal(canonical_weights(MODEL, dict(WEIGHTS), "here", "flax"), WEIGHTS)


def test_a_state_dict_of_our_torch_model():
    import torch  # what a user's own script would do

    state = layout("torch", param_table(MODEL)).to_framework(WEIGHTS)
    assert state["conv_0.weight"].shape == (2, 1, 3, 3)
    loaded = {name: torch.tensor(array).numpy() for name, array in state.items()}
    equal(canonical_weights(MODEL, loaded, "here", "torch"), WEIGHTS)


def test_a_map_to_either_kind_of_name():
    state = layout("torch", param_table(MODEL)).to_framework(WEIGHTS)
    state["fc.weight"], state["fc.bias"] = state.pop("head.weight"), state.pop("head.bias")
    names = {"fc.weight": "head/kernel", "fc.bias": "head.bias"}
    equal(canonical_weights(MODEL, state, "here", "torch", names), WEIGHTS)


def test_everything_that_does_not_fit_is_told_at_once():
    arrays = dict(WEIGHTS)
    del arrays["dense_0/bias"]
    arrays["head/kernel"] = arrays["head/kernel"].T
    arrays["head/bias"] = np.zeros(3, np.int64)
    arrays["extra"] = np.zeros((2, 2), np.float32)
    arrays["twice"] = arrays["conv_0/bias"]
    arrays["astray"] = np.zeros(1, np.float32)
    names = {"twice": "conv_0/bias", "nobody": "head/bias", "astray": "nowhere/kernel"}
    with pytest.raises(UsageError) as caught:
        canonical_weights(MODEL, arrays, "file.safetensors", "canonical", names)
    first, *problems = str(caught.value).split("\n  ")
    assert first == "file.safetensors does not fit the model:"
    assert sorted(problems) == sorted(
        [
            "the map names 'nobody', which the file has not",
            "the map sends 'astray' to 'nowhere/kernel', which the model has not",
            "'extra' (2, 2) is left over: the model has no such tensor",
            "'twice' and 'conv_0/bias' are both to be 'conv_0/bias'",
            "'dense_0/bias' is missing, expected (5,)",
            "'head/kernel' has shape (3, 5), expected (5, 3)",
            "'head/bias' has type int64, expected floating point",
        ]
    )


def test_shapes_are_told_as_the_file_has_them():
    state = layout("torch", param_table(MODEL)).to_framework(WEIGHTS)
    state["head.weight"] = state["head.weight"].T
    del state["conv_0.weight"]
    with pytest.raises(UsageError) as caught:
        canonical_weights(MODEL, state, "here", "torch")
    assert "'head.weight' has shape (5, 3), expected (3, 5)" in str(caught.value)
    assert "'conv_0.weight' is missing, expected (2, 1, 3, 3)" in str(caught.value)


def test_halves_are_widened_and_doubles_kept():
    for given, kept in ((np.float16, np.float32), (np.float64, np.float64)):
        arrays = {name: array.astype(given) for name, array in WEIGHTS.items()}
        found = canonical_weights(MODEL, arrays, "here")
        assert {array.dtype for array in found.values()} == {np.dtype(kept)}
        np.testing.assert_array_equal(found["head/kernel"], arrays["head/kernel"])


class RanError(Exception):
    """The pickle was read."""


class Bomb:
    def __reduce__(self):
        return RanError, ()


@pytest.mark.parametrize("name", ["weights.pt", "weights.bin", "weights.safetensors"])
def test_pickles_are_never_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UsageError, match=r"holds pickled Python.*safetensors\.torch\.save_file"):
        read_foreign(path)
    path.write_bytes(b"PK\x03\x04 an archive of torch.save")
    with pytest.raises(UsageError, match="holds pickled Python"):
        read_foreign(path)


def test_files_that_are_none(tmp_path):
    with pytest.raises(NotFoundError, match="no such file"):
        read_foreign(tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="not a readable safetensors file"):
        read_foreign(tmp_path / "x.safetensors")


def test_what_is_read_fits(tmp_path):
    write_file(tmp_path / "w.safetensors", sample().weights)
    equal(canonical_weights(sample_run().model, read_foreign(tmp_path / "w.safetensors"), "here"), sample().weights)
