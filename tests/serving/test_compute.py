"""With what a replica computes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dlhpc.api import Registry
from dlhpc.serving import compute
from dlhpc.serving.compute import backend_of, device_environment, measuring_environment
from dlhpc.spec.serving import BatchingSpec, ServingSpec
from dlhpc.spec.verification import VerificationSpec, Verify
from tests.registry.samples import sample
from tests.registry.test_faster import Race


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    made = Registry(tmp_path / "registry")
    made.publish(sample(1), "cats")
    return made


@pytest.mark.parametrize("mode", ["cached", "full"])
def test_auto_measures_the_version_as_the_replicas_would_compute_it(
    registry: Registry, tmp_path: Path, mode: Verify, monkeypatch: pytest.MonkeyPatch
) -> None:
    race, started = Race(2.0, 1.0), []

    def start(root: str, digest: str, backend: Any, **how: Any) -> Any:
        started.append((root, digest, backend, how))
        return race(backend)

    monkeypatch.setattr(compute, "WorkerProcess", start)
    monkeypatch.setenv("SOME", "thing")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    how = VerificationSpec(mode=mode, cache_dir=tmp_path / "cache")
    spec = ServingSpec(registry=str(registry.root), verification=how, batching=BatchingSpec(max_batch_size=8))
    artifact = registry.get("cats")
    assert backend_of(spec, artifact).backend == "torch"
    sizes = {entry[2] for entry in race.diary if entry[-1] == "uint8"}
    assert sizes == {1, 8}
    assert [(root, digest, backend) for root, digest, backend, _ in started] == [
        (str(registry.root), artifact.digest, backend) for backend in ("flax", "torch")
    ]
    assert started[0][3]["cache_dir"] == (tmp_path / "cache" if mode == "cached" else None)
    environ = started[0][3]["environ"]
    assert (environ["SOME"], environ["OMP_NUM_THREADS"], environ["JAX_PLATFORMS"]) == ("thing", "1", "cpu")
    backend_of(spec, artifact)
    assert len(started) == 2
    backend_of(spec.model_copy(update={"gpus_per_replica": 1.0}), artifact)
    assert len(started) == 4
    backend_of(spec.model_copy(update={"precision": "int8"}), artifact)  # which computes in float32
    assert len(started) == 4
    backend_of(spec.model_copy(update={"precision": "bfloat16"}), artifact)
    assert [how["precision"] for *_, how in started] == ["float32"] * 4 + ["bfloat16"] * 2


def test_a_replica_without_gpus_sees_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_environment(0) == {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    assert device_environment(0.5) == {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.450"}
    assert device_environment(2) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    environ = measuring_environment(0.5)
    assert environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert (environ["OMP_NUM_THREADS"], environ["PATH"]) == ("3", os.environ["PATH"])


@pytest.mark.server
@pytest.mark.slow
def test_both_frameworks_are_measured_for_real_and_only_once(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = VerificationSpec(cache_dir=tmp_path / "cache")
    spec = ServingSpec(registry=str(registry.root), verification=how)
    first = backend_of(spec, registry.get("cats"))
    assert first.reason.startswith("measured now, ms for 1 and 32 images: flax ")
    monkeypatch.setattr(compute, "WorkerProcess", lambda *how, **more: pytest.fail("measured again"))
    second = backend_of(spec, registry.get("cats"))
    assert second.backend == first.backend
    assert second.reason == first.reason.replace("now", "before")
