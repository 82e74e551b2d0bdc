"""What references stand for, and how closely versions are looked at before they are served."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dlhpc.api import Registry
from dlhpc.errors import IntegrityError, NotFoundError, ServingError
from dlhpc.registry import blobs, manifest
from dlhpc.serving.versions import first_plan, load_slot, published
from dlhpc.spec.served import ServedModelSpec
from dlhpc.spec.serving import BatchingSpec, ServingSpec
from dlhpc.spec.verification import VerificationSpec, Verify
from tests.registry.samples import CLASSES, sample
from tests.registry.test_signing import generated


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """cats:1, cats:2 (also @production) and then dogs:1."""
    made = Registry(tmp_path / "registry")
    made.publish(sample(1), "cats")
    made.publish(sample(2), "cats", alias="production")
    made.publish(sample(3), "dogs")
    return made


def spec(registry: Registry, **settings: Any) -> ServingSpec:
    return ServingSpec(**{"registry": registry.root, "backend": "trained", **settings})


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


@pytest.mark.parametrize(
    ("backend", "computes", "reason"),
    [
        ("trained", "torch", "it trained the model"),
        ("flax", "flax", "as configured"),
        ("torch", "torch", "as configured"),
    ],
)
def test_the_backend_is_told_with_its_reason(registry: Registry, backend: str, computes: str, reason: str) -> None:
    registry.publish(sample(4, backend="torch"), "made-by-torch")
    info = published(spec(registry, backend=backend))
    assert (info.backend, info.backend_reason) == (computes, reason)


def test_the_first_plan_has_every_model_in_the_specs_order(registry: Registry) -> None:
    (only,) = first_plan(spec(registry, model="cats@production")).models
    assert (only.name, only.stable.name) == ("cats", "cats:2")
    served = {"pets": ServedModelSpec(ref="dogs"), "cats": ServedModelSpec(ref="cats:1")}
    plan = first_plan(spec(registry, models=served))
    assert [(model.name, model.stable.name) for model in plan.models] == [("pets", "dogs:1"), ("cats", "cats:1")]


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


PIXELS = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1) * 16


@pytest.mark.parametrize("backend", ["flax", "torch"])
def test_each_precision_answers_otherwise_and_tells_how_far_off_it_is(registry: Registry, backend: str) -> None:
    registry.derive("cats:1", "int8")
    answers, found = {}, {}
    for precision in ("float32", "bfloat16", "int8"):
        settings = spec(registry, model="cats:1", backend=backend, precision=precision)
        info = published(settings)
        assert (info.precision, info.deviation) == (precision, None)
        slot = load_slot(settings, info)
        answers[precision], found[precision] = slot.predictor(PIXELS), slot.info.deviation
        assert slot.info.precision == precision
    assert found["float32"] < 1e-5 < min(found["bfloat16"], found["int8"])
    assert max(found.values()) < 0.05
    assert len({answer.tobytes() for answer in answers.values()}) == 3
    assert answers["int8"] == pytest.approx(registry.quantised("cats:1").predictor(backend)(PIXELS), abs=1e-6)


def test_what_is_further_off_than_allowed_is_not_served(registry: Registry) -> None:
    settings = spec(registry, model="cats:1", precision="bfloat16", max_deviation=1e-6)
    with pytest.raises(ServingError, match=r"cats:1 in bfloat16 on flax: answers differ by .* more than max_deviation"):
        load_slot(settings, published(settings))
    allowed = settings.model_copy(update={"max_deviation": 0.5})
    assert load_slot(allowed, published(allowed)).info.deviation


def test_int8_needs_its_file_and_says_which_command_makes_it(registry: Registry) -> None:
    settings = spec(registry, model="cats:1", precision="int8")
    digest = f"sha256:{sample(1).digest}"
    with pytest.raises(NotFoundError, match=f"has no int8 .*make it: dlhpc registry derive {digest} --format int8"):
        published(settings)


@pytest.mark.parametrize("mode", ["full", "cached"])
def test_a_damaged_int8_file_is_not_served(registry: Registry, mode: Verify) -> None:
    record = registry.derive("cats:1", "int8")
    path = blobs.content_path(registry.blobs, record.file.sha256)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    settings = spec(registry, model="cats:1", precision="int8", verification=VerificationSpec(mode=mode))
    with pytest.raises(IntegrityError, match="int8 file"):
        published(settings)


def test_where_a_signature_is_asked_for_the_signed_weights_are_rounded(registry: Registry, tmp_path: Path) -> None:
    private, public = generated(tmp_path)
    how = VerificationSpec(require_signature=(public,))
    settings = spec(registry, model="cats:1", precision="int8", verification=how)
    with pytest.raises(IntegrityError, match="is not signed by"):
        published(settings)
    registry.sign("cats:1", private)
    slot = load_slot(settings, published(settings))  # there is no int8 file
    registry.derive("cats:1", "int8")
    np.testing.assert_array_equal(slot.predictor(PIXELS), registry.quantised("cats:1").predictor("flax")(PIXELS))
