import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import ConflictError, NotFoundError
from dlhpc.registry.store import Registry
from tests.registry.samples import sample


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    for seed in range(3):
        store.publish(sample(seed), "pets")
    return store


def test_a_move_from_where_it_was_expected(store):
    assert store.last_move("pets", "production") is None
    first = store.set_alias("pets", "production", "pets:1", expected=0)
    assert store.last_move("pets", "production") == first
    assert store.set_alias("pets", "production", "pets:2", expected=first.number).moved_from == 1


@pytest.mark.parametrize("expected", [0, 1, 3])
def test_a_move_from_elsewhere_is_refused(store, expected):
    store.set_alias("pets", "production", "pets:1")
    store.set_alias("pets", "production", "pets:2")
    with pytest.raises(ConflictError, match=r"pets@production was moved to pets:2 meanwhile, by .*@.* at 20"):
        store.set_alias("pets", "production", "pets:3", expected=expected)
    assert store.resolve("pets@production") == sample(1).digest


def test_moves_away_and_back_are_moves(store):
    first = store.set_alias("pets", "production", "pets:1")
    store.set_alias("pets", "production", "pets:2")
    store.set_alias("pets", "production", "pets:1")
    with pytest.raises(ConflictError):
        store.set_alias("pets", "production", "pets:3", expected=first.number)


def test_where_it_stands_already_nothing_is_lost(store):
    store.set_alias("pets", "production", "pets:1")
    last = store.set_alias("pets", "production", "pets:2")
    assert store.set_alias("pets", "production", "pets:2", expected=1) == last


def test_the_last_move_of_an_unknown_name(store):
    with pytest.raises(NotFoundError, match="no model 'pest'"):
        store.last_move("pest", "production")


def test_a_move_that_is_overtaken_at_the_last_moment_is_refused(store, monkeypatch):
    """Somebody else's move lands between the look at the last one and the writing of ours."""
    store.set_alias("pets", "production", "pets:1")
    rival, stamp = Registry(store.root, load_backend), store._stamp

    def overtaken(after):
        rival.set_alias("pets", "production", "pets:3", note="first")
        return stamp(after)

    monkeypatch.setattr(store, "_stamp", overtaken)
    with pytest.raises(ConflictError, match="moved to pets:3 meanwhile"):
        store.set_alias("pets", "production", "pets:2", expected=1)
    assert [move.note for move in store.history("pets", "production")] == ["", "first"]
