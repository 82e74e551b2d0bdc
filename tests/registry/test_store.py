import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dlhpc import api
from dlhpc.backends import load_backend
from dlhpc.errors import ConflictError, DlhpcError, IntegrityError, NotFoundError, UsageError
from dlhpc.registry.gc import sweep
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.writers import UNMEASURED, later

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "registry", load_backend)


@pytest.fixture
def filled(registry):
    for seed in range(3):
        registry.publish(sample(seed), "pets", alias="production" if seed == 1 else None, note="the best so far")
    registry.publish(sample(3), "plants")
    return registry


def test_what_is_published_is_what_is_got(registry):
    artifact = sample()
    digest = registry.publish(artifact, "pets")
    got = registry.get("pets")
    assert digest == artifact.digest == got.digest
    assert got.manifest == artifact.manifest
    assert got.manifest_bytes == artifact.manifest_bytes
    assert got.weights.keys() == artifact.weights.keys()
    assert all((got.weights[name] == artifact.weights[name]).all() for name in got.weights)


def test_references(filled):
    digests = [sample(seed).digest for seed in range(4)]
    assert filled.resolve("pets") == digests[2]
    assert [filled.resolve(f"pets:{number}") for number in (1, 2, 3)] == digests[:3]
    assert filled.resolve("pets@production") == digests[1]
    assert filled.resolve("plants") == digests[3]
    for digest in digests:
        assert filled.resolve(f"sha256:{digest}") == filled.resolve(f"sha256:{digest[:10]}") == digest
        assert filled.get(f"sha256:{digest[:8]}").digest == digest


def test_names_and_lists(filled):
    assert filled.names() == ("pets", "plants")
    assert [version.ref for version in filled.list()] == ["pets:3", "plants:1"]
    assert [(version.ref, version.aliases) for version in filled.list("pets")] == [
        ("pets:1", ()),
        ("pets:2", ("production",)),
        ("pets:3", ()),
    ]
    assert [version.sequence for version in filled.list("pets")] == [1, 2, 4]  # 3 is the alias's move
    assert "@" in filled.list()[0].published_by


def test_publishing_again_gives_the_label_that_is_there(filled):
    for seed in (0, 2, 1):
        filled.publish(sample(seed), "pets")
    assert len(filled.list("pets")) == 3
    assert filled.resolve("pets") == sample(2).digest


def test_one_version_under_two_names_is_stored_once(filled):
    before = {path for path in filled.blobs.rglob("*") if path.is_file()}
    digest = filled.publish(sample(0), "animals")
    assert {path for path in filled.blobs.rglob("*") if path.is_file()} == before
    assert [version.ref for version in filled.labels(digest)] == ["animals:1", "pets:1"]


def test_aliases_move_and_remember(filled):
    filled.set_alias("pets", "production", "pets:3", note="better")
    filled.set_alias("pets", "production", f"sha256:{sample(0).digest}", note="back")
    assert filled.resolve("pets@production") == sample(0).digest
    moves = filled.history("pets", "production")
    assert [(move.moved_from, move.moved_to, move.note) for move in moves] == [
        (None, 2, "the best so far"),
        (2, 3, "better"),
        (3, 1, "back"),
    ]
    assert all("@" in move.by and move.at.endswith("Z") for move in moves)


def test_an_alias_that_stays_writes_nothing(filled):
    before = filled.history("pets", "production")
    assert filled.set_alias("pets", "production", "pets:2", note="again") == before[-1]
    assert filled.history("pets", "production") == before


def test_an_alias_stands_for_versions_of_its_own_name(filled):
    with pytest.raises(UsageError, match="plants:1 is not a version of 'pets'"):
        filled.set_alias("pets", "production", "plants:1")
    assert filled.resolve("pets@production") == sample(1).digest


def test_newest_is_what_was_published_last_over_all_names(filled):
    assert filled.newest().ref == "plants:1"
    filled.publish(sample(4), "pets")
    assert filled.newest().ref == "pets:4"


def test_a_clock_that_jumps_back_does_not_change_the_order(tmp_path):
    clock = iter(datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=day) for day in range(10))
    registry = Registry(tmp_path / "registry", load_backend, now=lambda: next(clock))
    for seed, name in enumerate(("a", "b", "a", "c")):
        registry.publish(sample(seed), name)
        assert registry.newest().name == name
    assert registry.newest().published_at == "2025-12-29T00:00:00.000000Z"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("pet", "no model 'pet' in .*; did you mean 'pets'\\? See: dlhpc registry list --registry "),
        ("zebra", "no model 'zebra' in .*; there are: pets, plants. See"),
        ("pets:4", "pets has versions 1 to 3, not 4. See: dlhpc registry list pets"),
        ("plants:2", "plants has only version 1, not 2"),
        ("pets@canary", "pets has no alias 'canary' \\(it has: production\\). To set it: "),
        ("plants@canary", "it has none.*dlhpc registry alias plants canary plants:1 --registry"),
        ("sha256:00000000", "no version sha256:00000000"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(filled, ref, message):
    with pytest.raises(NotFoundError, match=message):
        filled.get(ref)


@pytest.mark.parametrize("call", ["names", "list", "newest"])
def test_an_empty_registry_says_how_to_train(registry, call):
    with pytest.raises(NotFoundError, match=r"train one, which publishes it: dlhpc train .* --set registry.path="):
        getattr(registry, call)()
    assert not registry.root.exists()


def test_a_registry_without_a_version_says_so_too(filled, tmp_path):
    bare = Registry(tmp_path / "bare", load_backend)
    bare.root.mkdir()
    (bare.root / "registry.json").write_bytes((filled.root / "registry.json").read_bytes())
    assert bare.list() == ()
    for call in (bare.newest, lambda: bare.get("pets"), lambda: bare.list("pets")):
        with pytest.raises(NotFoundError, match="no model is published"):
            call()


def test_the_default_place_is_not_repeated_in_the_advice(tmp_path):
    with pytest.raises(NotFoundError, match=r"dlhpc train config/flax_config\.yaml$"):
        api.Registry("registry").newest()


def test_an_ambiguous_digest_asks_for_more(filled, monkeypatch):
    monkeypatch.setattr(
        "dlhpc.registry.blobs.digests", lambda root, prefix: iter([prefix + "0" * 56, prefix + "1" * 56])
    )
    with pytest.raises(UsageError, match=r"is the beginning of 2 versions: .*; give more digits"):
        filled.resolve("sha256:01234567")


@pytest.mark.parametrize(("name", "alias"), [("../pets", None), ("Pets", None), ("pets", "a/b"), ("pets", "")])
def test_bad_names_are_refused_before_anything_is_written(registry, name, alias):
    with pytest.raises(UsageError, match="is no valid"):
        registry.publish(sample(), name, alias=alias)
    assert not registry.root.exists()


def test_weights_changed_after_the_fact_are_not_published(registry):
    artifact = sample()
    artifact.weights["head/bias"] = artifact.weights["head/bias"] + 1
    with pytest.raises(IntegrityError, match="changed after it was made"):
        registry.publish(artifact, "pets")
    assert not registry.root.exists()


def test_a_folder_of_other_things_is_not_turned_into_a_registry(tmp_path):
    (tmp_path / "thesis.txt").write_text("my work")
    with pytest.raises(ConflictError, match=r"not empty .it has 'thesis.txt'.: name another folder"):
        Registry(tmp_path, load_backend).publish(sample(), "pets")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_registry_of_a_later_format_is_not_touched(filled):
    (filled.root / "registry.json").write_bytes(b'{"format":2,"kind":"dlhpc-registry"}\n')
    for call in (lambda: filled.get("pets"), lambda: filled.publish(sample(7), "pets")):
        with pytest.raises(IntegrityError, match=r"registry\.json: damaged, or of a later dlhpc"):
            call()


def test_a_file_where_the_registry_should_be(tmp_path):
    (tmp_path / "registry").write_text("a file")
    with pytest.raises(NotFoundError, match="no model is published"):
        Registry(tmp_path / "registry", load_backend).get("pets")
    with pytest.raises(DlhpcError, match="cannot write to the registry"):
        Registry(tmp_path / "registry", load_backend).publish(sample(), "pets")


def test_a_full_disk_is_told_and_leaves_the_registry_as_it_was(filled):
    """A process that may write no more than 600 bytes to a file: the system refuses, as it does on a full disk."""
    code = f"""
import resource
from dlhpc.errors import DlhpcError
from dlhpc.registry.gc import sweep
from dlhpc.registry.store import Registry
from tests.registry.samples import sample
resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
try:
    Registry({str(filled.root)!r}, None).publish(sample(9), "pets")
except DlhpcError as error:
    print(type(error).__name__, error)
"""
    done = run(code)
    assert done.stdout.startswith(f"DlhpcError {filled.root}: cannot write to the registry: File too large")
    assert len(filled.list("pets")) == 3
    assert verify(filled).problems == []


def test_a_disk_that_is_full_at_any_step_is_told_and_harms_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.registry.writers", "full-at-each-step", tmp_path]
    done = subprocess.run(command, cwd=CHECKOUT, env=UNMEASURED, capture_output=True, text=True, check=True)
    steps = int(done.stdout.removesuffix(" steps refused\n"))
    assert steps > 20, done.stderr
    for step in range(1, steps + 1):
        store = Registry(tmp_path / str(step), load_backend)
        assert verify(store).problems == []
        assert store.resolve("pets@production") in (sample(0).digest, sample(1).digest)
        store.publish(sample(1), "pets", alias="production")
        assert store.get("pets@production").digest == sample(1).digest
        sweep(store, grace_s=0, now=later)
        assert not [path for path in store.root.rglob("*") if path.name.endswith(".tmp")]


def run(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=CHECKOUT, env=UNMEASURED, capture_output=True, text=True, check=True)


def test_readers_write_nothing(filled):
    """A registry can be read where nothing can be written: no reader so much as tries."""
    code = f"""
import os, sys
from dlhpc.backends import load_backend
from dlhpc.registry.gc import sweep
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
root, tried = {str(filled.root)!r}, []
WRITES = ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.truncate", "os.chmod",
          "os.utime", "shutil.", "tempfile.", "fcntl.")
def hook(event, args):
    if event == "open" and args and str(args[0]).startswith(root):
        if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND):
            tried.append((event, args))
        seen.add(str(args[0]))
    elif event.startswith(WRITES) and any(str(arg).startswith(root) for arg in args):
        tried.append((event, args))
seen = set()
sys.addaudithook(hook)
registry = Registry(root, load_backend)
for ref in ("pets", "pets:1", "pets@production", "sha256:" + registry.resolve("plants")):
    registry.get(ref), registry.manifest(ref)
registry.list(), registry.list("pets"), registry.newest(), registry.history("pets", "production")
registry.labels(registry.resolve("pets"))
assert not verify(registry).problems
print(len(seen), tried)
"""
    count, tried = run(code).stdout.split(maxsplit=1)
    assert tried.strip() == "[]"
    assert int(count) >= 4 * 2 + 4 + 1 + 1  # blobs and manifests, labels, the alias, the marker: the hook saw them


def test_records_are_plain_json(filled):
    label = json.loads((filled.root / "names/pets/versions/2.json").read_text())
    assert (label["name"], label["number"], label["manifest"]) == ("pets", 2, sample(1).digest)
    move = json.loads((filled.root / "names/pets/aliases/production/1.json").read_text())
    assert (move["alias"], move["moved_to"], move["note"]) == ("production", 2, "the best so far")


def test_a_user_without_a_name_can_publish(registry, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    registry.publish(sample(), "pets")
    assert registry.newest().published_by.split("@")[0].isdigit()
