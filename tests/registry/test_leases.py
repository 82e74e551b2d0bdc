import os
import socket
import subprocess
import sys
import threading
from subprocess import PIPE

import pytest

from dlhpc.registry.leases import held, lease, removing
from tests.registry.writers import UNMEASURED

NOW = 0.0
"""A grace period that began before any file was written."""


@pytest.fixture
def root(tmp_path):
    return tmp_path


def test_a_lease_protects_its_path_what_is_in_it_and_where_it_lies(root):
    with lease(root, ["names/pets", "blobs/sha256/ab/abcd"]):
        leases = held(root, NOW)
    assert (leases.living, leases.stale) == (1, ())
    for path in ("names/pets", "names/pets/versions/3.json", "names", "blobs/sha256/ab/abcd", "blobs/sha256/ab"):
        assert leases.protects(path), path
    for path in ("names/pets-2", "names/cats", "blobs/sha256/ab/abce", "manifests"):
        assert not leases.protects(path), path


def test_a_lease_ends_with_its_work(root):
    with pytest.raises(ZeroDivisionError), lease(root, ["a"]):
        1 / 0  # noqa: B018
    assert held(root, NOW).living == 0
    assert os.listdir(root / ".leases") == ["lock"]


def test_the_lease_of_a_writer_that_was_killed_is_stale_at_once(root, checkout):
    code = """
import sys
from pathlib import Path
from dlhpc.registry.leases import lease
with lease(Path(sys.argv[1]), ["a"]):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, root]
    with subprocess.Popen(command, cwd=checkout, stdin=PIPE, stdout=PIPE, env=UNMEASURED) as writer:
        assert writer.stdout.readline() == b"held\n"
        assert (held(root, NOW).living, held(root, NOW).used) == (1, {"a"})
        writer.kill()
    leases = held(root, NOW)
    assert (leases.living, leases.used) == (0, frozenset())
    assert [path.name.split(".")[-3] for path in leases.stale] == [str(writer.pid)]


def test_nobody_begins_while_something_is_removed(root):
    began = threading.Event()

    def write():
        with lease(root, ["a"]):
            began.set()

    writer = threading.Thread(target=write)
    with removing(root, NOW) as leases:
        writer.start()
        assert leases.living == 0
        assert not began.wait(0.05)
    assert began.wait(10)
    writer.join()


def test_a_lease_that_is_just_being_written_counts_as_none_where_nothing_is_removed(root):
    (root / ".leases").mkdir()
    path = root / ".leases" / f"{socket.gethostname()}.1.ab.json"
    path.write_text("")
    assert held(root, NOW).stale == (path,)


def test_another_host_s_lease_is_believed_for_the_grace_period(root):
    """Its lock may not be seen from here."""
    (root / ".leases").mkdir()
    path = root / ".leases" / "else.where.1.ab.json"
    path.write_text('{"paths": ["a"]}')
    assert (held(root, NOW).stale, held(root, NOW).used) == ((), {"a"})
    assert held(root, path.stat().st_mtime).stale == (path,)


def test_no_leases_where_nobody_ever_wrote(root):
    assert held(root, NOW).living == 0
    assert not (root / ".leases").exists()


def test_a_disk_that_is_full_leaves_no_lease(root, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dlhpc.registry.leases.json.dumps", full)
    with pytest.raises(OSError, match="No space left"), lease(root, ["a"]):
        raise AssertionError("begins without a lease")
    assert os.listdir(root / ".leases") == ["lock"]
