"""A big file whose writer was killed is gone on with, not begun again."""

import fcntl
import os
import subprocess
import sys

import pytest

from dlhpc.backends import load_backend
from dlhpc.registry import blobs, gc, partial
from dlhpc.registry.manifest import sha256
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.writers import UNMEASURED, later

CHUNK = 1000
CONTENT = bytes(range(256)) * 40  # 10,240 bytes: eleven chunks


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(partial, "CHUNK_BYTES", CHUNK)
    monkeypatch.setattr(partial, "RESUMED_FROM", 2000)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file"


def killed_after(path, written):
    """A process that is killed when it has written so many bytes."""
    code = f"""
import os, pathlib, signal
from dlhpc.registry import partial
partial.CHUNK_BYTES = {CHUNK}
def told(done):
    if done >= {written}:
        os.kill(os.getpid(), signal.SIGKILL)
partial.write_resumable(pathlib.Path({str(path)!r}), bytes(range(256)) * 40, told)
"""
    assert subprocess.run([sys.executable, "-c", code], env=UNMEASURED, check=False).returncode == -9


def test_a_killed_writer_is_gone_on_with(path):
    killed_after(path, 7000)
    assert not path.exists()
    told = []
    partial.write_resumable(path, CONTENT, told.append)
    assert told == [7000, 8000, 9000, 10000, 10240]  # 3,240 of 10,240 bytes are written
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("left", [b"", CONTENT[:2500], b"\0" * 20000, CONTENT[:3000] + b"other" * 900])
def test_what_lies_there_is_compared_not_believed(path, left):
    path.with_name(".file.partial").write_bytes(left)
    partial.write_resumable(path, CONTENT, lambda done: None)
    assert path.read_bytes() == CONTENT


def test_a_second_writer_of_the_same_file_takes_a_file_of_its_own(path):
    other = path.with_name(".file.partial")
    with other.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        partial.write_resumable(path, CONTENT, lambda done: None)
        assert path.read_bytes() == CONTENT
        assert other.read_bytes() == b""


def test_a_file_is_whole_or_not(path):
    assert not partial.is_whole(path, CONTENT)
    for damage in (CONTENT[:-1], CONTENT + b"x", b"x" + CONTENT[1:]):
        path.write_bytes(damage)
        assert not partial.is_whole(path, CONTENT)
    path.write_bytes(CONTENT)
    assert partial.is_whole(path, CONTENT)


def test_a_publication_goes_on_where_another_stopped(tmp_path):
    """And what is never gone on with is swept."""
    registry = Registry(tmp_path / "registry", load_backend)
    registry.publish(sample(0), "pets")
    digest = sha256(CONTENT)
    path = blobs.content_path(registry.blobs, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    killed_after(path, 4000)
    assert verify(registry).problems == []
    told = []
    blobs.put(registry.blobs, CONTENT, what="it", progress=lambda *step: told.append(step))
    assert told[0] == ("writing it", 4000, 10240)
    assert blobs.read(registry.blobs, digest, "it") == CONTENT
    path.unlink()
    killed_after(path, 4000)
    swept = gc.sweep(registry, grace_s=0, now=later)
    assert swept.removed["temporary"] == 1
    assert [file for file in swept.files if file.endswith(".partial")]
    assert not list(path.parent.parent.rglob("*.partial"))
