import json
from datetime import UTC, datetime, timedelta

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError, NotFoundError, UsageError
from dlhpc.registry.blobs import content_path
from dlhpc.registry.store import Registry
from dlhpc.registry.verification import verify
from tests.registry.samples import sample
from tests.registry.writers import leave


@pytest.fixture
def store(tmp_path):
    clock = iter(datetime(2026, 1, 1, tzinfo=UTC) - timedelta(hours=hour) for hour in range(1000))
    store = Registry(tmp_path / "registry", load_backend, now=lambda: next(clock))
    store.publish(sample(0), "pets")
    store.publish(sample(1), "pets")
    return store


def test_tags_are_set_changed_and_removed(store):
    assert store.tags("pets") == {}
    assert store.tag("pets", "stage", "new").before is None
    change = store.tag("pets:2", "stage", "gold", note="reviewed")
    assert (change.before, change.after, change.note, change.number) == ("new", "gold", "reviewed", 2)
    store.tag("pets", "team/owner", "vision = us, {all}")
    assert store.tags("pets") == {"stage": "gold", "team/owner": "vision = us, {all}"}
    assert store.tags("pets:1") == {}
    removed = store.untag("pets", "stage", note="not any more")
    assert (removed.before, removed.after, removed.tags) == ("gold", None, {"team/owner": "vision = us, {all}"})
    assert store.tags("pets") == {"team/owner": "vision = us, {all}"}


def test_a_version_has_its_tags_and_notes_under_every_name(store):
    store.tag("pets:1", "stage", "gold")
    store.note("pets:1", "blind in one eye")
    store.publish(sample(0), "animals")
    assert store.tags("animals") == store.tags(f"sha256:{sample(0).digest}") == {"stage": "gold"}
    assert [note.text for note in store.notes("animals:1")] == ["blind in one eye"]


def test_the_version_itself_does_not_change(store):
    before = store.read("pets")
    store.tag("pets", "stage", "gold")
    store.note("pets", "fine")
    assert store.read("pets") == before
    assert store.publish(sample(1), "pets") == sample(1).digest
    assert len(store.list("pets")) == 2


def test_a_tag_that_stands_so_already_writes_nothing(store):
    first = store.tag("pets", "stage", "gold")
    assert store.tag("pets", "stage", "gold", note="again") == first


def test_who_when_and_in_which_order(store):
    """The clock goes back an hour at each look; the sequence does not."""
    changes = [store.tag("pets", "turn", str(turn)) for turn in range(3)] + [store.note("pets", "done")]
    assert all("@" in change.by and change.at.endswith("Z") for change in changes)
    assert [change.at for change in changes] == sorted((change.at for change in changes), reverse=True)
    assert [change.sequence for change in changes] == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.tag("pets", "", "x"), "'' is no valid tag"),
        (lambda s: s.tag("pets", "a b", "x"), "'a b' is no valid tag"),
        (lambda s: s.tag("pets", ".hidden", "x"), "is no valid tag"),
        (lambda s: s.tag("pets", "k" * 129, "x"), "is no valid tag"),
        (lambda s: s.tag("pets", "key", "x" * 65537), "the tag's value has 65537 characters, more than 65536"),
        (lambda s: s.tag("pets", "key", "x", note="\ud800"), "the note is no text that can be written as UTF-8"),
        (lambda s: s.note("pets", " \n"), "an empty note says nothing"),
        (lambda s: s.note("pets", "x" * 65537), "the note has 65537 characters"),
    ],
)
def test_what_cannot_be_kept_is_refused(store, call, message):
    with pytest.raises(UsageError, match=message):
        call(store)
    assert not (store.root / "annotations").exists()


def test_what_is_not_there(store):
    store.tag("pets", "stage", "gold")
    with pytest.raises(NotFoundError, match=r"pets has no tag 'stag' .it has: stage."):
        store.untag("pets", "stag")
    with pytest.raises(NotFoundError, match=r"pets:1 has no tag 'stage' .it has none."):
        store.untag("pets:1", "stage")
    with pytest.raises(NotFoundError, match="no model 'plants'"):
        store.tag("plants", "stage", "gold")


def test_what_an_interrupted_publication_left_is_not_annotated(store):
    """A sweep may remove it the next moment."""
    leave(store, sample(5))
    with pytest.raises(NotFoundError, match="left by an interrupted publication, under no name: publish it"):
        store.tag(f"sha256:{sample(5).digest}", "stage", "gold")


def test_records_are_plain_json(store):
    store.tag("pets", "stage", "gold", note="why")
    path = content_path(store.annotations, sample(1).digest) / "tags" / "1.json"
    record = json.loads(path.read_text())
    assert (record["key"], record["before"], record["after"], record["note"]) == ("stage", None, "gold", "why")
    assert record["version"] == sample(1).digest


def test_verification_reads_every_remark(store):
    store.tag("pets", "stage", "gold")
    store.untag("pets", "stage")
    store.note("pets:1", "fine")
    assert (verify(store).remarks, verify(store).problems) == (3, [])
    folder = content_path(store.annotations, sample(1).digest)
    (folder / "tags" / "1.json").unlink()
    assert any("1.json: missing" in problem for problem in verify(store).problems)
    (folder / "extra").write_text("")
    assert any("extra: unexpected file" in problem for problem in verify(store).problems)


def test_remarks_about_a_version_that_is_gone_are_told(store):
    store.tag("pets", "stage", "gold")
    content_path(store.manifests, sample(1).digest).unlink()
    assert any("the version that it is about is missing" in problem for problem in verify(store).problems)


def test_tags_of_another_version_in_this_one_s_place(store):
    for ref in ("pets:1", "pets:2"):
        store.tag(ref, "stage", "gold")
        store.note(ref, "fine")
    one, two = (content_path(store.annotations, sample(seed).digest) for seed in (0, 1))
    for kind, read in (("tags", store.tags), ("notes", store.notes)):
        (two / kind / "1.json").write_bytes((one / kind / "1.json").read_bytes())
        with pytest.raises(IntegrityError, match=f"belongs to the {kind} of sha256:{sample(0).digest}: "):
            read("pets:2")
