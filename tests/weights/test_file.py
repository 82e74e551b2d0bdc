"""safetensors in and out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dlhpc.errors import DataError, IntegrityError
from dlhpc.weights.file import from_bytes, read_file, to_bytes, write_file


def test_round_trip_keeps_every_bit_and_dtype(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "a": generator.standard_normal((3, 4)).astype(np.float32),
        "b/transposed": generator.standard_normal((5, 2)).T,
        "counter": np.asarray(7, dtype=np.int64),
    }
    write_file(tmp_path / "w.safetensors", arrays)
    back = read_file(tmp_path / "w.safetensors")
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        assert np.array_equal(back[name], array)


def test_equal_arrays_give_equal_bytes_whatever_their_order() -> None:
    a, b = np.zeros(3), np.ones(2)
    assert to_bytes({"a": a, "b": b}) == to_bytes({"b": b, "a": a})


@pytest.mark.parametrize("content", [b"", b"\x00" * 8, b"\xff" * 64, b"not safetensors"])
def test_garbage_is_refused_by_name(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        from_bytes(content, "model.safetensors")


def test_bfloat16_becomes_float32_of_the_same_values() -> None:
    import safetensors.torch
    import torch

    values = torch.tensor([[1.5, -0.0, 3e38], [1e-40, float("inf"), float("nan")]]).to(torch.bfloat16)
    back = from_bytes(safetensors.torch.save({"w": values}), "w.safetensors")["w"]
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back, values.float().numpy())


def test_types_that_numpy_lacks_are_named() -> None:
    import safetensors.torch
    import torch

    content = safetensors.torch.save({"w": torch.ones(4).to(torch.float8_e4m3fn)})
    with pytest.raises(DataError, match=r"x\.safetensors: 'w' has type F8_E4M3, expected BF16, F64"):
        from_bytes(content, "x.safetensors")
