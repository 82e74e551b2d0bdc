from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError, NotFoundError
from dlhpc.registry.events import events
from dlhpc.registry.store import Registry
from tests.registry.samples import sample

FORMAT_1 = Path(__file__).parent / "fixtures" / "format-1" / "registry"


@pytest.fixture
def store(tmp_path):
    """All that can happen, while the clock goes back an hour at each look."""
    clock = iter(datetime(2026, 1, 1, tzinfo=UTC) - timedelta(hours=hour) for hour in range(1000))
    store = Registry(tmp_path / "registry", load_backend, now=lambda: next(clock))
    store.publish(sample(0), "pets", alias="production", note="first", run=Path("runs/pets-1"))
    store.tag("pets", "stage", "new")
    store.publish(sample(1), "pets")
    store.note("pets:1", "blind")
    store.set_alias("pets", "production", "pets:2", note="better")
    store.publish(sample(0), "animals", alias="best")
    store.untag("pets:1", "stage", note="wrong one")
    store.tag("pets:2", "stage", "gold")
    store.set_alias("pets", "production", "pets:1", note="back")
    store.publish(sample(2), "plants")
    return store


def told(found):
    return [(event.kind, event.ref, event.what, event.before, event.after, event.note) for event in found]


def test_all_that_happened_to_a_name_in_order_whatever_the_clock_said(store):
    found = events(store, "pets")
    assert told(found) == [
        ("published", "pets:1", "runs/pets-1", None, None, ""),
        ("alias", "pets:1", "production", None, "pets:1", "first"),
        ("tag", "pets:1", "stage", None, "new", ""),
        ("published", "pets:2", "", None, None, ""),
        ("note", "pets:1", "", None, None, "blind"),
        ("alias", "pets:2", "production", "pets:1", "pets:2", "better"),
        ("untag", "pets:1", "stage", "new", None, "wrong one"),
        ("tag", "pets:2", "stage", None, "gold", ""),
        ("alias", "pets:1", "production", "pets:2", "pets:1", "back"),
    ]
    assert [event.sequence for event in found] == [1, 2, 3, 4, 5, 6, 9, 10, 11]
    assert [event.at for event in found] == sorted((event.at for event in found), reverse=True)
    assert all("@" in event.by for event in found)


def test_all_that_happened_to_a_version_under_any_name(store):
    expected = [
        ("published", "pets:1"),
        ("alias", "pets:1"),
        ("tag", "animals:1"),
        ("note", "animals:1"),
        ("alias", "pets:2"),
        ("published", "animals:1"),
        ("alias", "animals:1"),
        ("untag", "animals:1"),
        ("alias", "pets:1"),
    ]
    for ref in ("pets:1", "animals:1", "animals@best", "pets@production", f"sha256:{sample(0).digest}"):
        assert [(event.kind, event.ref) for event in events(store, ref)] == expected


def test_moves_of_the_first_format_stand_where_they_belong():
    found = events(Registry(FORMAT_1, load_backend), "pets")
    assert [(event.kind, event.ref, event.what) for event in found] == [
        ("published", "pets:1", ""),
        ("alias", "pets:1", "production"),
        ("published", "pets:2", ""),
        ("alias", "pets:2", "candidate"),
        ("published", "pets:3", ""),
        ("alias", "pets:3", "production"),
        ("alias", "pets:1", "production"),
    ]


def test_what_is_not_there(store):
    with pytest.raises(NotFoundError, match="no model 'cats'"):
        events(store, "cats")


@pytest.mark.parametrize("part", ["names/pets/aliases/production/1.json", "names/pets/versions/1.json"])
def test_damage_is_refused(store, part):
    (store.root / part).write_bytes(b"{}")
    with pytest.raises(IntegrityError, match=part):
        events(store, "pets")
