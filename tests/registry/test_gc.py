import fcntl
import os
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import DlhpcError, IntegrityError, NotFoundError, UsageError
from dlhpc.registry import blobs, gc, leases
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.writers import UNMEASURED, later, leave

AN_HOUR = 3600


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    store.publish(sample(0), "pets", alias="production")
    store.publish(sample(1), "pets")
    store.tag("pets", "stage", "new")
    return store


def tree(store):
    """Everything but what is the writers' own."""
    return {
        path.relative_to(store.root).as_posix()
        for path in store.root.rglob("*")
        if not path.relative_to(store.root).as_posix().startswith((".clock", ".leases/lock"))
    }


def in_an_hour(store):
    return (store.root / "registry.json").stat().st_mtime + AN_HOUR + 60


def litter(store):
    """What publications leave that die here or there; the files, and the bytes that they take."""
    leave(store, sample(2))
    halves = [
        store.versions("pets") / ".3.123.abcd.tmp",
        store.blobs / "sha256" / "ab" / f".{'ab' * 32}.123.abcd.tmp",
        store.root / ".registry.json.1.ab.tmp",
    ]
    for half in halves:
        half.parent.mkdir(exist_ok=True)
        half.write_bytes(b"half")
    (store.versions("ghost")).mkdir(parents=True)
    for host in ("elsewhere", socket.gethostname()):
        (store.root / ".leases" / f"{host}.123.abcd.json").write_text('{"paths": ["names"]}')


def test_a_registry_without_leftovers_stays_as_it_is(store):
    before = tree(store)
    swept = gc.sweep(store, grace_s=0, now=later)
    assert (swept.files, swept.bytes, swept.removed) == ([], 0, {})
    assert tree(store) == before


def test_everything_left_behind_is_removed_and_nothing_else(store):
    clean = tree(store)
    litter(store)
    expected = sample(2).manifest.size + len(sample(2).manifest_bytes) + 3 * 4 + 2 * len('{"paths": ["names"]}')
    swept = gc.sweep(store, now=lambda: in_an_hour(store))
    assert tree(store) == clean
    assert swept.bytes == expected
    assert {kind: count for kind, count in swept.removed.items() if kind != "folder"} == {
        "blob": 2,
        "manifest": 1,
        "temporary": 3,
        "lease": 2,
    }
    assert {"names/ghost", "names/ghost/versions", "blobs/sha256/ab"} <= set(swept.files)
    assert verify(store).problems == []
    assert verify(store).unused == 0


def test_a_dry_run_tells_the_same_and_removes_nothing(store):
    litter(store)
    before = tree(store)
    told = gc.sweep(store, dry_run=True, now=lambda: in_an_hour(store))
    assert tree(store) == before
    done = gc.sweep(store, now=lambda: in_an_hour(store))
    assert (told.files, told.bytes, told.removed) == (done.files, done.bytes, done.removed)
    assert (told.dry_run, done.dry_run) == (True, False)


def test_what_is_young_stays(store):
    litter(store)
    before = tree(store)
    swept = gc.sweep(store)
    assert (swept.young, swept.used, swept.writers) == (5, 1, 1)  # the other host's may be alive
    assert before - tree(store) == {f".leases/{socket.gethostname()}.123.abcd.json"}  # dead, whenever it died
    for path in (store.root / file for file in before):
        if path.is_file():
            os.utime(path, (0, in_an_hour(store)))
    assert gc.sweep(store, grace_s=0).young == 5  # the clock jumped back: they are not from here, so they stay


def test_what_a_label_s_version_descends_from_stays(store):
    parent, child = sample(5), sample(6)
    leave(store, parent)
    manifest = child.manifest.model_copy(update={"parents": (parent.digest, "cd" * 32)})
    store.publish(replace(child, manifest=manifest, manifest_bytes=manifest.to_bytes()), "pets")
    gc.sweep(store, grace_s=0, now=later)
    assert store.get(f"sha256:{parent.digest}").digest == parent.digest


def test_what_a_running_writer_uses_stays(store):
    leave(store, sample(2))
    used = blobs.content_path(store.manifests, sample(2).digest).relative_to(store.root).as_posix()
    with leases.lease(store.root, [used]):
        swept = gc.sweep(store, grace_s=0, now=later)
        assert (swept.used, swept.writers, swept.removed["blob"]) == (1, 1, 2)
        assert (store.root / used).exists()
    assert gc.sweep(store, grace_s=0, now=later).removed["manifest"] == 1
    assert not (store.root / used).exists()
    assert not list((store.root / ".leases").glob("*.json"))


def test_a_version_published_while_a_sweep_looks_around_stays(store, monkeypatch):
    """Between the look and the removal comes a whole publication of something that looked unneeded."""
    leave(store, sample(2))
    real = gc.removing

    def publish_first(root, cutoff):
        monkeypatch.setattr(gc, "removing", real)
        store.publish(sample(2), "pets")
        return real(root, cutoff)

    monkeypatch.setattr(gc, "removing", publish_first)
    assert gc.sweep(store, grace_s=0, now=later).files == []
    assert store.get("pets:3").digest == sample(2).digest


def test_a_writer_that_ends_while_a_sweep_looks_is_no_leftover(store, monkeypatch):
    """Its lease was unlocked when it was looked at, and gone a moment later."""
    path = store.root / ".leases" / "ended.1.ab.json"
    ended = leases.Leases(frozenset(), 0, (path,))
    monkeypatch.setattr(leases, "held", lambda root, cutoff: ended)
    assert gc.sweep(store, grace_s=0, now=later).files == []


@pytest.mark.parametrize("part", ["label", "manifest"])
def test_where_something_is_damaged_nothing_is_removed(store, part):
    litter(store)
    path = {
        "label": store.versions("pets") / "1.json",
        "manifest": blobs.content_path(store.manifests, sample(0).digest),
    }[part]
    path.write_bytes(path.read_bytes()[:-1])
    before = tree(store)
    with pytest.raises(IntegrityError, match=path.name):
        gc.sweep(store, grace_s=0, now=later)
    assert tree(store) == before


def test_mistakes_are_refused(store, tmp_path):
    for grace in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="a grace period of"):
            gc.sweep(store, grace_s=grace)
    with pytest.raises(NotFoundError, match="no model is published"):
        gc.sweep(Registry(tmp_path / "none", load_backend))


def test_without_locks_a_sweep_refuses_and_publishing_goes_on(store, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    leave(store, sample(2))
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(DlhpcError, match="has no locks, so nobody can tell what running publications use"):
        gc.sweep(store, grace_s=0, now=later)
    store.publish(sample(3), "pets")
    assert store.newest().ref == "pets:3"


def run(checkout, *arguments):
    command = [sys.executable, "-m", "tests.registry.writers", *map(str, arguments)]
    return subprocess.run(command, cwd=checkout, env=UNMEASURED, capture_output=True, text=True, check=True)


def test_sweeps_do_no_harm_while_four_processes_publish(checkout, tmp_path):
    done = run(checkout, "swept", tmp_path / "registry", 4, 25)
    assert done.stdout.startswith("4 of 4 writers succeeded; "), done.stderr
    store = Registry(tmp_path / "registry", load_backend)
    assert [version.number for version in store.list("pets")] == list(range(1, 101))
    found = verify(store)
    assert (found.versions, found.labels, found.remarks, found.unused, found.problems) == (101, 101, 100, 0, [])


def test_a_sweep_that_is_killed_anywhere_harms_nothing(checkout, tmp_path):
    done = run(checkout, "sweeps-killed-at-each-step", tmp_path)
    assert int(done.stdout.split()[0]) > 20
    assert done.stdout.endswith("kills, then status 0\n"), done.stderr
    for root in tmp_path.iterdir():
        store = Registry(root, load_backend)
        assert verify(store).problems == []
        store.publish(sample(1), "pets")  # of which the sweep may have removed a part
        gc.sweep(store, grace_s=0, now=later)
        found = verify(store)
        assert (found.versions, found.labels, found.unused, found.problems) == (2, 2, 0, [])
        assert not any(path.name.endswith(".tmp") or path.name == "ghost" for path in root.rglob("*"))


@pytest.mark.parametrize("how", [["killed-at-each-step"], ["killed-at-random", "100", "0"]])
def test_after_any_number_of_killed_publications_a_sweep_leaves_nothing_behind(checkout, tmp_path, how):
    run(checkout, how[0], tmp_path / "killed", *how[1:])
    for root in [tmp_path / "killed"] if "random" in how[0] else (tmp_path / "killed").iterdir():
        store = Registry(root, load_backend)
        assert verify(store).problems == []
        gc.sweep(store, grace_s=0, now=later)
        assert verify(store).unused == 0
        needed = {"registry.json"}
        for name in store.names():
            for version in store.list(name):
                manifest = store.manifest(version.ref)
                needed.add(f"names/{name}/versions/{version.number}.json")
                needed.add(blobs.content_path(store.manifests, version.digest).relative_to(root).as_posix())
                needed |= {
                    blobs.content_path(store.blobs, entry.sha256).relative_to(root).as_posix()
                    for entry in manifest.files.values()
                }
            for alias in {alias for version in store.list(name) for alias in version.aliases}:
                for move in store.history(name, alias):
                    needed.add(f"names/{name}/aliases/{alias}/{move.number}.json")
        assert {file for file in tree(store) if (root / file).is_file()} == needed
        assert [file for file in tree(store) if (root / file).is_dir() and not os.listdir(root / file)] == []
