"""Verified bytes are hashed once per node, and whatever happens to them meanwhile is noticed."""

import logging
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError, UsageError
from dlhpc.registry import blobs
from dlhpc.registry.cache import NodeCache, default_folder
from dlhpc.registry.manifest import sha256
from dlhpc.registry.store import Registry
from tests.registry.samples import sample
from tests.registry.writers import UNMEASURED

CONTENT, OTHER = b"what was hashed" * 100, b"what was forged" * 100
DIGEST = sha256(CONTENT)


class Source:
    """What fetches and hashes, and counts how often."""

    def __init__(self):
        self.fetched = 0

    def __call__(self):
        self.fetched += 1
        return CONTENT


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def cache(tmp_path):
    return NodeCache(tmp_path / "cache")


@pytest.fixture
def entry(cache, source):
    """The file of an entry that has been read twice, fetched once."""
    assert [read(cache, source) for _ in range(2)] == [CONTENT, CONTENT]
    assert source.fetched == 1
    return cache.folder / DIGEST


def read(cache, source):
    return cache.read(DIGEST, len(CONTENT), source)


def test_the_folder_and_what_is_in_it_are_the_users_alone(cache, source, entry):
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry.stat().st_mode) == 0o400
    assert sorted(path.name for path in cache.folder.iterdir()) == [DIGEST, f"{DIGEST}.json", f"{DIGEST}.lock"]


def rewritten(path, content):
    """Overwritten in place, with everything set back that a program can set back."""
    before = path.stat()
    path.chmod(0o600)
    path.write_bytes(content)
    path.chmod(0o400)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_mode, after.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)


def replaced(path, content):
    """Another file in its place, with the same times, size and mode."""
    before = path.stat()
    other = path.with_name("other")
    other.write_bytes(content)
    other.chmod(0o400)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def linked(path, content):
    """A symbolic link to a file elsewhere."""
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.write_bytes(content)
    path.unlink()
    path.symlink_to(elsewhere)


ATTACKS = {
    "rewritten, times set back": lambda path: rewritten(path, OTHER),
    "the same bytes written again": lambda path: rewritten(path, CONTENT),
    "replaced, times set back": lambda path: replaced(path, OTHER),
    "symbolic link": lambda path: linked(path, OTHER),
    "symbolic link to the same bytes": lambda path: linked(path, CONTENT),
    "truncated": lambda path: rewritten(path, CONTENT[:10]),
    "emptied": lambda path: rewritten(path, b""),
    "appended to": lambda path: rewritten(path, CONTENT + b"\0"),
    "zeroed": lambda path: rewritten(path, bytes(len(CONTENT))),
    "writable": lambda path: path.chmod(0o600),
    "another name for it": lambda path: os.link(path, path.with_name("another")),
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_what_was_touched_is_fetched_and_hashed_again(cache, source, entry, attack, caplog):
    attack(entry)
    with caplog.at_level(logging.WARNING):
        assert read(cache, source) == CONTENT
    assert source.fetched == 2
    assert f"{entry}: not as it was left here" in caplog.text
    assert read(cache, source) == CONTENT
    assert source.fetched == 2
    assert not entry.is_symlink()


@pytest.mark.parametrize("suffix", ["", ".json", ".lock"])
def test_what_is_missing_is_made_again(cache, source, entry, suffix):
    entry.with_name(f"{DIGEST}{suffix}").unlink()
    assert read(cache, source) == CONTENT
    assert source.fetched == (1 if suffix == ".lock" else 2)
    assert read(cache, source) == CONTENT


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b'{"identity":null}', b"\xff"])
def test_a_damaged_record_is_no_record(cache, source, entry, content):
    entry.with_name(f"{DIGEST}.json").write_bytes(content)
    assert read(cache, source) == CONTENT
    assert source.fetched == 2


def test_a_flipped_bit_of_the_record_is_noticed(cache, source, entry):
    record = entry.with_name(f"{DIGEST}.json")
    content = record.read_bytes()
    for position in range(0, len(content), 7):
        before = source.fetched
        record.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert read(cache, source) == CONTENT
        assert source.fetched == before + 1
        content = record.read_bytes()


def test_swapped_entries_are_noticed(cache, source, entry):
    cache.read(sha256(OTHER), len(OTHER), lambda: OTHER)
    a, b = entry, cache.folder / sha256(OTHER)
    for suffix in ("", ".json"):
        paths = [each.with_name(f"{each.name}{suffix}") for each in (a, b)]
        aside = cache.folder / "aside"
        paths[0].replace(aside)
        paths[1].replace(paths[0])
        aside.replace(paths[1])
    assert read(cache, source) == CONTENT
    assert cache.read(sha256(OTHER), len(OTHER), lambda: OTHER) == OTHER
    assert source.fetched == 2


def test_a_folder_that_others_may_write_to_is_refused(cache, source, entry, monkeypatch):
    for mode in (0o777, 0o770, 0o702):
        cache.folder.chmod(mode)
        with pytest.raises(UsageError, match=rf"cache: others may write to it \(mode {mode:o}\): chmod 700"):
            read(cache, source)
    cache.folder.chmod(0o700)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    with pytest.raises(UsageError, match=rf"cache: belongs to another user \(id {user}\)"):
        read(cache, source)
    assert source.fetched == 1


def test_where_it_lies(tmp_path, monkeypatch):
    assert default_folder({"XDG_CACHE_HOME": "/c"}).as_posix() == "/c/dlhpc/verified"
    assert default_folder({"XDG_CACHE_HOME": "/c", "DLHPC_CACHE_DIR": "/d"}).as_posix() == "/d"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder({}) == tmp_path / ".cache" / "dlhpc" / "verified"
    monkeypatch.setenv("DLHPC_CACHE_DIR", str(tmp_path / "mine"))
    assert NodeCache().folder == tmp_path / "mine"


@contextmanager
def files_of_at_most(size):
    """The kernel refuses to let any file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_costs_the_hash_and_nothing_else(cache, source, caplog):
    caplog.handler.setLevel(logging.WARNING)
    with files_of_at_most(len(CONTENT) // 2):
        assert read(cache, source) == CONTENT
    assert "the cache cannot be written (File too large): going on without" in caplog.text
    assert [path.suffix for path in cache.folder.iterdir()] == [".lock"]
    assert read(cache, source) == CONTENT
    assert source.fetched == 2
    assert read(cache, source) == CONTENT
    assert source.fetched == 2


def test_a_folder_that_cannot_be_made_costs_the_hash_and_nothing_else(tmp_path, source, caplog):
    (tmp_path / "file").write_text("")
    cache = NodeCache(tmp_path / "file" / "cache")
    assert [read(cache, source) for _ in range(2)] == [CONTENT, CONTENT]
    assert source.fetched == 2
    assert "the cache cannot be made (Not a directory)" in caplog.text


def test_a_lock_that_cannot_be_had_costs_nothing(cache, source, entry, caplog):
    entry.unlink()
    lock = entry.with_name(f"{DIGEST}.lock")
    lock.unlink()
    lock.symlink_to("elsewhere")
    assert read(cache, source) == CONTENT
    assert "the cache cannot be locked" in caplog.text


def test_what_a_killed_process_left_is_swept_aside(cache, source):
    cache.folder.mkdir(mode=0o700)
    aside = cache.folder / f"{DIGEST}.tmp"
    aside.write_bytes(b"half")
    assert read(cache, source) == CONTENT
    assert not aside.exists()


def test_what_fetching_raises_comes_through_and_nothing_is_kept(cache):
    def damaged():
        raise IntegrityError("weights: damaged")

    with pytest.raises(IntegrityError, match="weights: damaged"):
        cache.read(DIGEST, len(CONTENT), damaged)
    assert not (cache.folder / DIGEST).exists()


def test_what_was_not_used_for_longest_goes(tmp_path):
    contents = [bytes([number]) * 10_000 for number in range(4)]
    cache = NodeCache(tmp_path / "cache", most_bytes=35_000)

    def use(number, at):
        content = contents[number]
        assert cache.read(sha256(content), len(content), lambda: content) == content
        os.utime(cache.folder / f"{sha256(content)}.lock", (at, at))

    def kept():
        return {number for number, content in enumerate(contents) if (cache.folder / sha256(content)).exists()}

    for number in range(3):
        use(number, at=number + 1)
    assert kept() == {0, 1, 2}
    use(0, at=10)
    use(3, at=11)
    assert kept() == {0, 2, 3}
    assert not list(cache.folder.glob(f"{sha256(contents[1])}*"))


def test_what_is_larger_than_the_whole_cache_is_not_kept(tmp_path, source):
    cache = NodeCache(tmp_path / "cache", most_bytes=10)
    assert [read(cache, source) for _ in range(2)] == [CONTENT, CONTENT]
    assert source.fetched == 2
    assert not cache.folder.exists()


def test_processes_that_begin_together_hash_once(tmp_path, checkout):
    command = [sys.executable, "-m", "tests.registry.cache_readers", str(tmp_path), "8"]
    done = subprocess.run(
        command, cwd=checkout, env=UNMEASURED, capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.stdout, done.stderr) == ("8 readers, 1 hash\n", "")


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry", load_backend)
    registry.publish(sample(), "pets")
    return registry


def weights(registry):
    return blobs.content_path(registry.blobs, sample().manifest.files["weights.safetensors"].sha256)


def test_a_cached_version_is_given_while_its_place_lives_or_not(registry, cache):
    registry.get("pets", verify="cached", cache=cache)
    weights(registry).write_bytes(b"damaged since")
    assert registry.get("pets", verify="cached", cache=cache).digest == sample().digest
    with pytest.raises(IntegrityError, match=str(weights(registry))):
        registry.get("pets")
    shutil.rmtree(cache.folder)
    with pytest.raises(IntegrityError, match=str(weights(registry))):
        registry.get("pets", verify="cached", cache=cache)


def test_the_users_own_cache_is_the_default_and_full_does_without(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("DLHPC_CACHE_DIR", str(tmp_path / "mine"))
    registry.get("pets")
    assert not (tmp_path / "mine").exists()
    registry.get("pets", verify="cached")
    assert (tmp_path / "mine" / weights(registry).name).exists()


def test_fast_looks_at_sizes_and_says_so_each_time(registry, caplog):
    content = weights(registry).read_bytes()
    weights(registry).write_bytes(content[:-4] + bytes(4))
    for _ in range(2):
        caplog.clear()
        assert registry.get("pets", verify="fast").digest == sample().digest  # what it cannot notice
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert re.match(r"pets \(sha256:\w{12}\): loaded without hashing its files \(fast\)", record.message)
    weights(registry).write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match=f"{weights(registry)}: .* bytes, expected"):
        registry.get("pets", verify="fast")
    blobs.content_path(registry.manifests, sample().digest).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match="the manifest of"):
        registry.get("pets", verify="fast")


def test_fast_and_signatures_do_not_go_together(registry):
    with pytest.raises(UsageError, match="a signature is of digests"):
        registry.get("pets", verify="fast", require_signature=["key.pub"])


def test_notes_outlive_eviction_and_are_read_only_where_nobody_else_writes(tmp_path):
    cache = NodeCache(tmp_path / "cache", most_bytes=10)
    assert cache.note("aa") is None
    cache.keep_note("aa", {"much": "x" * 100})
    cache.read("bb", 5, lambda: b"12345")
    cache.read("cc", 8, lambda: b"12345678")
    assert cache.note("aa") == {"much": "x" * 100}
    (cache.folder / "aa.note").write_bytes(b"no JSON")
    assert cache.note("aa") is None
    cache.folder.chmod(0o777)
    for ask in (lambda: cache.note("aa"), lambda: cache.keep_note("aa", 1)):
        with pytest.raises(UsageError, match="others may write to it"):
            ask()
