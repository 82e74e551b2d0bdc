"""What the registry in MLflow promises, as tests that run against any server: the double, and MLflow itself."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import DlhpcError, IntegrityError, NotFoundError, UsageError
from dlhpc.registry.artifact import Artifact
from dlhpc.registry.exchange import copy, open_store
from dlhpc.registry.manifest import WEIGHTS_FILE
from dlhpc.registry.stores.mlflow import MlflowStore
from dlhpc.registry.stores.mlflow_rest import MlflowServer
from dlhpc.weights.file import to_bytes
from tests.registry import samples

sample = cache(samples.sample)


class Place(NamedTuple):
    """A server, and where it keeps artifacts."""

    url: str
    artifacts: Path

    @property
    def store(self) -> MlflowStore:
        return store_at(self.url)

    def file(self, row_of: str, name: str) -> Path:
        """Where a file of a version lies on the server's disk."""
        source = self.store._row(row_of)["source"]
        return self.artifacts / source.removeprefix("mlflow-artifacts:/") / name


@cache
def store_at(url: str) -> MlflowStore:
    """One store for a server: making an HTTP client reads all certificates."""
    return MlflowStore(f"mlflow+{url}")


def files_of(artifact: Artifact) -> dict[str, bytes]:
    return {**artifact.files, WEIGHTS_FILE: to_bytes(artifact.weights)}


def publish(place: Place, name: str, seed: int = 0, **more: str) -> str:
    """The reference of a sample that was published."""
    return publish_artifact(place, name, sample(seed), **more)


def publish_artifact(place: Place, name: str, artifact: Artifact, **more: str) -> str:
    """The reference of an artifact that was published. Samples are made in one thread (samples.py patches)."""
    return place.store.publish_bytes(artifact.manifest_bytes, files_of(artifact), name, **more).ref


@pytest.fixture
def name() -> str:
    """A name that no other test uses: a real server lives longer than a test."""
    return f"pets-{uuid.uuid4().hex[:12]}"


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
    "truncated": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "appended": lambda content: content + b"\0",
}


class Promises:
    """The fixture `place` says where."""

    def test_a_version_comes_back_with_the_same_digest(self, place: Place, name: str, tmp_path: Path) -> None:
        here, back = (open_store(tmp_path / each, load_backend) for each in ("here", "back"))
        artifact = sample()
        there = open_store(f"mlflow+{place.url}", load_backend)
        label = here.publish_bytes(artifact.manifest_bytes, files_of(artifact), name)
        here.tag(label.ref, "stage", "gold")
        pushed = copy(here, there, label.ref, alias="production", note="reviewed")
        assert (pushed.ref, pushed.digest, pushed.aliases) == (f"{name}:1", artifact.digest, ("production",))
        pulled = copy(there, back, f"{name}@production")
        assert pulled.digest == artifact.digest
        assert back.read(name) == here.read(name) == there.read(name)
        assert back.tags(name) == there.tags(name) == {"stage": "gold"}

    def test_a_name_counts_its_versions(self, place: Place, name: str) -> None:
        assert [publish(place, name, seed) for seed in (0, 1, 0, 2, 3)] == [f"{name}:{n}" for n in (1, 2, 1, 3, 4)]
        store = place.store
        assert [version.number for version in store.list(name)] == [1, 2, 3, 4]
        assert [version.digest for version in store.list(name)] == [sample(seed).digest for seed in range(4)]
        assert name in store.names()
        assert next(version for version in store.list() if version.name == name).number == 4
        assert f"{name}:2" in [version.ref for version in store.labels(sample(1).digest)]

    def test_references_resolve_and_absent_ones_say_what_there_is(self, place: Place, name: str) -> None:
        for seed in (0, 1):
            publish(place, name, seed, alias="production")
        store, first, second = place.store, sample(0).digest, sample(1).digest
        assert store.resolve(name) == store.resolve(f"{name}:2") == store.resolve(f"{name}@production") == second
        assert store.resolve(f"{name}:1") == store.resolve(f"sha256:{first}") == first
        assert store.resolve(f"sha256:{first[:20]}") == first
        for ref, told in {
            f"{name}:3": f"{name} has no version 3; its newest is 2",
            f"{name}@candidate": "no alias 'candidate' (it has: production)",
            f"{name}x": f"did you mean '{name}'",
            f"{name}x@production": f"did you mean '{name}'",
            "sha256:00000000": "no version sha256:00000000",
        }.items():
            with pytest.raises(NotFoundError) as error:
                store.resolve(ref)
            assert told in str(error.value)

    def test_an_alias_moves(self, place: Place, name: str) -> None:
        publish(place, name, 0, alias="production", run="runs/7")
        publish(place, name, 1)
        assert [version.aliases for version in place.store.list(name)] == [("production",), ()]
        place.store.set_alias(name, "production", f"{name}:2", note="better")
        first, second = place.store.list(name)
        assert (first.aliases, second.aliases) == ((), ("production",))
        assert (first.run, second.run) == ("runs/7", None)
        publish(place, f"{name}-2", 2)
        with pytest.raises(UsageError, match="is not a version of"):
            place.store.set_alias(name, "production", f"{name}-2:1")

    def test_tags_belong_to_the_version_under_all_its_names(self, place: Place, name: str) -> None:
        refs = [publish(place, each) for each in (name, f"{name}-2")]
        place.store.tag(refs[0], "stage", "gold", note="reviewed")
        assert [place.store.tags(ref).get("stage") for ref in refs] == ["gold", "gold"]
        with pytest.raises(UsageError, match=r"dlhpc's own"):
            place.store.tag(refs[0], "dlhpc.digest", "ab" * 32)

    @pytest.mark.parametrize("file", [WEIGHTS_FILE, "manifest.json"])
    def test_every_damage_is_refused_and_mended_by_publishing_again(self, place: Place, name: str, file: str) -> None:
        ref = publish(place, name)
        publish(place, name, 1)
        path, other = place.file(ref, file), place.file(f"{name}:2", file)
        sound = path.read_bytes()
        attacks = {**DAMAGE, "swapped": lambda content: other.read_bytes()}
        for what, change in attacks.items():
            path.write_bytes(change(sound))
            with pytest.raises(IntegrityError) as error:
                place.store.read(ref)
            assert f"{file} of {ref}" in str(error.value), what
        path.unlink()
        with pytest.raises(IntegrityError, match=f"missing: it holds {file} of {ref}"):
            place.store.read(ref)
        assert publish(place, name) == ref
        assert path.read_bytes() == sound
        assert place.store.read(ref)[1] == files_of(sample())

    def test_of_several_labels_a_sound_one_is_read(self, place: Place, name: str) -> None:
        first, _ = (publish(place, each, 10**6) for each in (name, f"{name}-2"))
        place.file(first, WEIGHTS_FILE).unlink()
        with pytest.raises(IntegrityError):
            place.store.read(first)
        assert place.store.read(f"sha256:{sample(10**6).digest}")[1] == files_of(sample(10**6))

    def test_a_version_that_somebody_else_registered_is_refused(self, place: Place, name: str) -> None:
        first = publish(place, name)
        row = place.store._row(first)
        more = {"source": row["source"], "run_id": row["run_id"]}
        MlflowServer(place.url).post("model-versions/create", name=name, **more)
        with pytest.raises(NotFoundError, match=f"{name}:2 in .* has no tag 'dlhpc.digest': dlhpc did not publish it"):
            place.store.read(name)
        assert [version.ref for version in place.store.list(name)] == [first]
        assert publish(place, name, 1) == f"{name}:3"

    def test_a_tag_that_lies_is_noticed(self, place: Place, name: str) -> None:
        first, second = (publish(place, name, seed) for seed in (0, 1))
        server = MlflowServer(place.url)
        tag = {"name": name, "version": "1", "key": "dlhpc.digest"}
        server.post("model-versions/set-tag", **tag, value=sample(1).digest)
        with pytest.raises(IntegrityError, match=f"manifest.json of {first}"):
            place.store.read(first)
        server.post("model-versions/set-tag", **tag, value="sound")
        with pytest.raises(IntegrityError, match="is 'sound', expected 64 hex digits"):
            place.store.resolve(first)
        assert place.store.read(second)

    def test_the_run_shows_metrics_and_settings(self, place: Place, name: str) -> None:
        ref = publish(place, name)
        run = MlflowServer(place.url).get("runs/get", run_id=place.store._row(ref)["run_id"])["run"]
        params = {each["key"]: each["value"] for each in run["data"]["params"]}
        assert params["optimizer.name"] == sample().manifest.run.optimizer.name
        assert params["model.hidden_sizes"] == "[5]"
        assert {each["key"]: each["value"] for each in run["data"]["metrics"]} == {"accuracy": 0.5, "loss": 1.0}
        assert run["info"]["status"] == "FINISHED"

    def test_an_interrupted_publication_serves_nothing_and_a_retry_works(self, place: Place, name: str) -> None:
        send = MlflowServer.upload

        def fail(server: MlflowServer, uri: str, file: str, content: bytes) -> None:
            if file == "manifest.json":
                raise DlhpcError("the line is cut")
            send(server, uri, file, content)

        with patch.object(MlflowServer, "upload", fail), pytest.raises(DlhpcError, match="the line is cut"):
            publish(place, name)
        assert name not in place.store.names()
        with pytest.raises(NotFoundError):
            place.store.read(name)
        assert publish(place, name) == f"{name}:1"
        assert place.store.read(name)

    def test_what_is_published_must_be_what_the_manifest_says(self, place: Place, name: str) -> None:
        artifact = sample()
        sound = files_of(artifact)
        lacking = {file: content for file, content in sound.items() if file != WEIGHTS_FILE}
        for files, told in ((lacking, "missing beside"), ({**sound, WEIGHTS_FILE: b"other"}, "differs from")):
            with pytest.raises(IntegrityError, match=f"{WEIGHTS_FILE}: {told} the manifest"):
                place.store.publish_bytes(artifact.manifest_bytes, files, name)
        assert name not in place.store.names()

    def test_writers_at_once_get_a_label_each(self, place: Place, name: str) -> None:
        artifacts = [sample(seed) for seed in range(8)]
        with ThreadPoolExecutor(4) as pool:
            refs = list(pool.map(lambda artifact: publish_artifact(place, name, artifact), artifacts))
        assert sorted(refs) == sorted(f"{name}:{number}" for number in range(1, 9))
        digests = dict(zip(refs, (artifact.digest for artifact in artifacts), strict=True))
        assert {version.ref: version.digest for version in place.store.list(name)} == digests

    def test_writers_of_one_version_at_once_get_one_label(self, place: Place, name: str) -> None:
        artifact = sample()
        with ThreadPoolExecutor(4) as pool:
            refs = set(pool.map(lambda _: publish_artifact(place, name, artifact), range(4)))
        assert refs == {f"{name}:1"}
        assert [version.ref for version in place.store.list(name)] == [f"{name}:1"]
