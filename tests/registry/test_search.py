import pytest

from dlhpc.backends import load_backend
from dlhpc.errors import IntegrityError, NotFoundError, UsageError
from dlhpc.registry.blobs import content_path
from dlhpc.registry.search import search
from dlhpc.registry.store import Registry
from dlhpc.spec.optimizer import LionSpec
from tests.registry.samples import sample

LION = sample(3, optimizer=LionSpec(), backend="torch")


@pytest.fixture
def store(tmp_path):
    store = Registry(tmp_path / "registry", load_backend)
    for seed in range(3):
        store.publish(sample(seed), "pets", alias="production" if seed == 1 else None)
    store.publish(LION, "plants", run="runs/plants-7")
    store.publish(sample(0), "animals")
    store.tag("pets:2", "stage", "gold")
    store.tag("pets:3", "stage", "new")
    store.tag("plants", "seen", "0")
    return store


@pytest.mark.parametrize(
    ("conditions", "refs"),
    [
        ([], ["pets:1", "pets:2", "pets:3", "plants:1", "animals:1"]),
        (["name=pets"], ["pets:1", "pets:2", "pets:3"]),
        (["name~p*"], ["pets:1", "pets:2", "pets:3", "plants:1"]),
        (["name~p*", "accuracy>0.5"], ["pets:2", "pets:3", "plants:1"]),
        (["accuracy>=0.501", "accuracy<0.503"], ["pets:2", "pets:3"]),
        (["metric.loss=1"], ["pets:1", "pets:2", "pets:3", "plants:1", "animals:1"]),
        (["model.hidden_sizes=[5]", "number=3"], ["pets:3"]),
        (["model.hidden_sizes=[6]"], []),
        (["optimizer.name=lion"], ["plants:1"]),
        (["run.optimizer.name!=lion", "name!=animals"], ["pets:1", "pets:2", "pets:3"]),
        (["optimizer.eps<1"], ["pets:1", "pets:2", "pets:3", "animals:1"]),
        (["model=TorchDeepSpeedMLP"], ["plants:1"]),
        (["backend=flax", "seed=0"], ["pets:1", "animals:1"]),
        (["tag.stage=gold"], ["pets:2"]),
        (["tag.stage~*"], ["pets:2", "pets:3"]),
        (["tag.stage!=gold"], ["pets:1", "pets:3", "plants:1", "animals:1"]),
        (["tag.seen<1"], ["plants:1"]),
        (["tag.never=1"], []),
        (["alias=production"], ["pets:2"]),
        (["published_from=runs/plants-7"], ["plants:1"]),
        (["published_at<2000"], []),
        (["commit=null", f"digest={LION.digest}"], ["plants:1"]),
        (["parent~*"], []),
        (["environment.torch~*"], ["plants:1"]),
        (["data_fingerprint~ab*", "number>=3"], ["pets:3"]),
        (["training.clipping.name=none", "number=2"], ["pets:2"]),
    ],
    ids=" ".join,
)
def test_what_is_found(store, conditions, refs):
    assert [match.version.ref for match in search(store, conditions)] == refs


def test_matches_say_what_they_are(store):
    (match,) = search(store, ["tag.stage=gold"])
    assert (match.version.aliases, match.tags) == (("production",), {"stage": "gold"})
    assert match.manifest == sample(1).manifest


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("acuracy>0.5", r"column 1: no version has 'acuracy'; did you mean 'accuracy'\?"),
        (" optimiser.name=lion", r"column 2: no version has 'optimiser.name'; did you mean 'optimizer.name'"),
        ("model.hidden_sizes.0=5", "no version has 'model.hidden_sizes.0'"),
        ("metric.f1>0", "no version has 'metric.f1'"),
        ("accuracy>=", "column 11: expected a value"),
    ],
)
def test_mistakes_are_refused(store, condition, message):
    with pytest.raises(UsageError, match=message):
        search(store, [condition])


def test_an_empty_registry(tmp_path):
    with pytest.raises(NotFoundError, match="no model is published"):
        search(Registry(tmp_path / "none", load_backend), ["accuracy>0"])


def test_damage_is_refused(store):
    path = content_path(store.manifests, sample(2).digest)
    path.write_bytes(b"{}")
    assert [match.version.ref for match in search(store, ["name=plants"])] == ["plants:1"]
    with pytest.raises(IntegrityError, match=path.name):
        search(store, ["accuracy>0"])
