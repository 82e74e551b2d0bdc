"""Programs of Flax models run elsewhere and answer the same."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from dlhpc.engines.flax_export import FlaxExporter
from dlhpc.errors import UsageError
from tests.engines.exports import check, exported
from tests.twins.networks import SPECS, random_spec

SOME = ["mlp-layer-silu", "cnn", "cnn-layer-relu", "cnn-kernel-over-image"]
"""Between them: every activation, norms, odd paddings, strides."""


@pytest.mark.parametrize("name", SOME)
def test_onnx(name: str) -> None:
    check("flax", "onnx", SPECS[name])


def test_stablehlo() -> None:
    check("flax", "stablehlo", SPECS["cnn-layer-relu"])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "stablehlo"])
@pytest.mark.parametrize("spec", [*SPECS, *range(20)])
def test_every_kind_of_model(spec: Any, form: Any) -> None:
    check("flax", form, SPECS[spec] if isinstance(spec, str) else random_spec(spec))


def test_the_same_model_gives_the_same_bytes_and_leaves_the_settings_alone() -> None:
    before = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    first, second = (exported("flax", "stablehlo", SPECS["softmax-regression"]) for _ in range(2))
    assert first == second
    assert first.facts["platforms"] == "cpu, cuda, rocm, tpu"
    assert jax.config.jax_traceback_in_locations_limit == before  # type: ignore[attr-defined]


def test_what_flax_does_not_write() -> None:
    with pytest.raises(UsageError, match="flax writes onnx and stablehlo, not torch-export"):
        FlaxExporter().packages("torch-export")
    with pytest.raises(UsageError, match="not torch-export"):
        exported("flax", "torch-export", SPECS["softmax-regression"])
