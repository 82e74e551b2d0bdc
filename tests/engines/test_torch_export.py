"""Programs of PyTorch models run elsewhere and answer the same; no file of them holds a pickle."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dlhpc.engines.torch_export import TorchExporter, refuse_pickles
from dlhpc.errors import IntegrityError, UsageError
from tests.engines.exports import check, exported
from tests.twins.networks import SPECS, random_spec

SMALL = SPECS["softmax-regression"]


def test_onnx() -> None:
    check("torch", "onnx", SPECS["cnn-layer-relu"])


def test_torch_export() -> None:
    check("torch", "torch-export", SPECS["cnn-layer-relu"])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "torch-export"])
@pytest.mark.parametrize("spec", [*SPECS, *range(20)])
def test_every_kind_of_model(spec: Any, form: Any) -> None:
    check("torch", form, SPECS[spec] if isinstance(spec, str) else random_spec(spec))


def test_what_torch_does_not_write() -> None:
    with pytest.raises(UsageError, match="torch writes onnx and torch-export, not stablehlo"):
        exported("torch", "stablehlo", SMALL)


@pytest.fixture(scope="module")
def archive() -> bytes:
    return exported("torch", "torch-export", SMALL).content


def rewritten(archive: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as before:
        files = {name: before.read(name) for name in before.namelist()}
    change(files)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as after:
        for name, content in files.items():
            after.writestr(name, content)
    return buffer.getvalue()


class Trap:
    """Unpickling it would be noticed."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("something was unpickled",))


TRAP = pickle.dumps(Trap())


def example_inputs(files: dict[str, bytes]) -> None:
    files["archive/data/sample_inputs/model.pt"] = TRAP


def legacy_weights(files: dict[str, bytes]) -> None:
    files["archive/data/weights/model.pt"] = TRAP


def opaque_constant(files: dict[str, bytes]) -> None:
    files["archive/data/constants/opaque_obj_0"] = TRAP


def pickled_weight(files: dict[str, bytes]) -> None:
    name = "archive/data/weights/model_weights_config.json"
    config = json.loads(files[name])
    payload = next(iter(config["config"].values()))
    payload["use_pickle"] = True
    files[name] = json.dumps(config).encode()
    files[f"archive/data/weights/{payload['path_name']}"] = TRAP


@pytest.mark.parametrize("plant", [example_inputs, legacy_weights, opaque_constant, pickled_weight])
def test_a_file_with_a_pickle_is_refused_before_it_is_loaded(archive: bytes, plant: Any) -> None:
    planted = rewritten(archive, plant)
    with pytest.raises(IntegrityError, match=r"pickles, which are never loaded: .*(model\.pt|opaque_obj_0|weight_0)"):
        TorchExporter().program("torch-export", planted, SMALL)


def test_without_our_care_there_is_a_pickle() -> None:
    """torch.export.save as it is used everywhere: what is guarded against is real."""
    program = torch.export.export(torch.nn.Linear(2, 3), (torch.zeros(2, 2),))
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    with pytest.raises(IntegrityError, match=r"sample_inputs/model\.pt"):
        refuse_pickles(buffer.getvalue())


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"not a readable torch\.export file"):
        refuse_pickles(content)
