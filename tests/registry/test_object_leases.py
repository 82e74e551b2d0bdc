"""Leases in an object store: no locks, so times decide, and a sweep and a writer each see the other."""

import json
import threading
import time

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import ConflictError, DlhpcError, UsageError
from dlhpc.registry import blobs, gc, object_leases
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.stores.memory import bucket, keys
from tests.registry.writers import leave

DAY_S = 86400.0
FILES = len(sample().manifest.files)


def days_later():
    return time.time() + 2 * DAY_S


@pytest.fixture
def registry(request):
    with bucket(request.node.name) as root:
        registry = Registry(root, load_backend)
        registry.publish(sample(0), "pets")
        yield registry


def leases(registry):
    return [key for key in keys(registry.root) if key.startswith(".leases/")]


def test_a_lease_stands_while_a_writer_writes(registry):
    with object_leases.lease(registry.root, ["blobs"]):
        assert object_leases.held(registry.root)[:2] == (frozenset({"blobs"}), 1)
        assert len(leases(registry)) == 1
    assert leases(registry) == []


def test_a_lease_counts_for_a_day(registry):
    with object_leases.lease(registry.root, ["blobs"]):
        used, living, stale = object_leases.held(registry.root, days_later)
        assert (used, living, len(stale)) == (frozenset(), 0, 1)


def test_what_interrupted_publications_left_goes_after_a_day(registry):
    leave(registry, sample(1))
    before = verify(registry)
    assert gc.sweep(registry).removed == {}
    swept = gc.sweep(registry, now=days_later)
    assert swept.removed == {"manifest": 1, "blob": FILES}
    found = verify(registry)
    assert (before.unused, found.unused, found.versions, found.problems) == (0, 0, 1, [])
    assert registry.get("pets").digest == sample(0).digest


def test_a_sweep_leaves_what_a_writer_uses(registry):
    leave(registry, sample(1))
    path = blobs.content_path(registry.manifests, sample(1).digest)
    with object_leases.lease(registry.root, [path.relative_to(registry.root).as_posix()]):
        swept = gc.sweep(registry, now=days_later)
    assert (swept.removed, swept.used) == ({"blob": FILES}, 1)
    assert path.exists()


def test_a_grace_period_of_less_than_a_day_is_refused(registry):
    with pytest.raises(UsageError, match="no locks"):
        gc.sweep(registry, grace_s=3600)


def test_a_dry_run_removes_nothing(registry):
    leave(registry, sample(1))
    before = keys(registry.root)
    assert gc.sweep(registry, dry_run=True, now=days_later).removed == {"manifest": 1, "blob": FILES}
    assert keys(registry.root) == before


def test_a_writer_waits_for_a_sweep_to_end(registry):
    published = threading.Event()

    def publish():
        with object_leases.lease(registry.root, ["names"], wait_s=0.01):
            published.set()

    with object_leases.removing(registry.root):
        thread = threading.Thread(target=publish)
        thread.start()
        assert not published.wait(0.2)
        assert len(leases(registry)) == 2  # the sweep could see it
    assert published.wait(30)
    thread.join()


def test_a_sweep_that_died_is_not_waited_for_for_ever(registry):
    (registry.root / ".leases" / "sweep").write_bytes(b"x")
    with object_leases.lease(registry.root, ["names"], now=days_later):
        assert leases(registry)
    with object_leases.removing(registry.root, days_later) as may_remove:
        assert may_remove()


def test_one_sweep_at_a_time(registry):
    with object_leases.removing(registry.root), pytest.raises(ConflictError, match="another sweep is at work"):
        gc.sweep(registry, now=days_later)


def test_a_sweep_ends_by_itself(registry, monkeypatch):
    leave(registry, sample(1))
    monkeypatch.setattr(object_leases, "SWEEP_S", -1.0)
    with pytest.raises(DlhpcError, match="run gc again"):
        gc.sweep(registry, now=days_later)
    assert verify(registry).problems == []


def test_leases_of_dead_writers_go(registry, monkeypatch):
    (registry.root / ".leases" / "elsewhere.1.ab.json").write_bytes(json.dumps({"paths": ["blobs"]}).encode())
    monkeypatch.setattr(object_leases, "LEASE_S", -1.0)
    assert gc.sweep(registry, grace_s=DAY_S).removed == {"lease": 1}
    assert leases(registry) == []
